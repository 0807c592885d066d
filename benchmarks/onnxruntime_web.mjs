// Runs model files in ONNX Runtime compiled to WebAssembly, as a browser would: node onnxruntime_web.mjs JOB.json
//
// The job names models (path, threshold or null), pictures (uint8 RGB, one behind the other), their size, rounds, and a
// folder for the results. Models take turns, one picture at a time; times are of the rounds behind the first.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ort = createRequire(join(job.packages, "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;

const pixels = readFileSync(job.pictures);
const [height, width] = job.size;
const bytes = height * width * 3;
const pictures = Array.from({ length: pixels.length / bytes }, (_, index) =>
  new ort.Tensor("uint8", pixels.subarray(index * bytes, (index + 1) * bytes), [1, height, width, 3]));

const sessions = [];
for (const model of job.models) {
  sessions.push(await ort.InferenceSession.create(model.path, { executionProviders: ["wasm"] }));
}
const times = job.models.map(() => []);
for (let round = 0; round <= job.rounds; round++) {
  for (const [picture, images] of pictures.entries()) {
    for (const [index, { name, threshold }] of job.models.entries()) {
      const feeds = { images };
      if (threshold !== null) feeds.threshold = new ort.Tensor("float32", [threshold], []);
      const begin = performance.now();
      const outputs = await sessions[index].run(feeds);
      if (round > 0) times[index].push(performance.now() - begin);
      for (const [output, { data }] of Object.entries(round > 0 ? {} : outputs)) {
        const file = join(job.folder, `${name}.${picture}.${output}`);
        writeFileSync(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
    }
  }
}
writeFileSync(join(job.folder, "times.json"), JSON.stringify(times));
