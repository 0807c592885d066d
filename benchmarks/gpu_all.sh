#!/usr/bin/env bash
# Every check and measurement that needs a GPU, by one command. See benchmarks/README.md.
#
#   bash benchmarks/gpu_all.sh                       all steps
#   bash benchmarks/gpu_all.sh --list                what the steps are, and what they would use
#   bash benchmarks/gpu_all.sh --only kernels,model  some steps; the library is built where it is missing
#   bash benchmarks/gpu_all.sh --budget 580          start no step, and let none run, beyond so many seconds
#   bash benchmarks/gpu_all.sh --cpu-twin            try the script out without a GPU; figures mean nothing
#
# Nothing is fetched; carry.py fills .carry on another machine. Variables (relative paths begin at the root of the
# checkout), with what is taken where they are not set:
#   OUT                    folder for JSON, log and trained weights (benchmarks/results; log and weights in build/gpu)
#   PYTHON                 python3 with torch, numpy and pytest
#   ALGM_PLUGINS_LIB       plugin library that was built elsewhere (built by nvcc for the GPU at hand)
#   ALGM_TENSORRT_LIBS     libnvinfer_lean.so.N, separated by colons (.carry/tensorrt/*.so.*, also as .xz)
#   ALGM_TENSORRT_HEADERS  folders with NVIDIA's headers, separated by colons (.carry/tensorrt/headers/*)
#   ALGM_PICTURES          folder of photographs, or file of carry.py (.carry/pictures.npz; else drawn scenes)
#   ALGM_OFFICIAL          checkout of the official code (.carry/official; else it is not timed)
#   ALGM_CHECKPOINTS       trained checkpoints, separated by colons (.carry/checkpoints/* and examples/sample); accuracy
#                          takes the folder that is called camvid
#   ALGM_CAMVID            CamVid, to train on (.carry/camvid; else nothing is trained)
# TensorRT-RTX and plans to try it with are taken from .carry/rtx alone.
#
# Exit code: 0 all steps passed, 1 a step failed, 2 wrong arguments, 4 no GPU (after building, where nvcc is there).
#
# shellcheck disable=SC2329  # the steps are functions that are called by their names
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

readonly STEPS=(build kernels speed runtime plugins doctor rtx model accuracy training sanitizer experiments)
declare -Ar WHAT=(
  [build]="plugin library for the GPU at hand, with nvcc"
  [kernels]="L4: kernels against the NumPy reference (tests/plugins/test_*kernels_gpu.py)"
  [sanitizer]="compute-sanitizer, memcheck and racecheck, on a part of these tests"
  [plugins]="L5: plugin objects, directly and through the registries of tensorrt-lean (tests/plugins/test_plugins_gpu.py)"
  [runtime]="CUDA module, device arrays, slide mode; plans where TensorRT is (tests/runtime/backends/test_tensorrt_gpu.py)"
  [doctor]="algm-doctor --selftest: L0 to L6 as far as the machine goes"
  [rtx]="plans of TensorRT-RTX that carry.py built, tried on this GPU (benchmarks/gpu_rtx.py)"
  [speed]="kernels against their floors (benchmarks/kernels.py)"
  [experiments]="changes to kernels that wait for a measurement (benchmarks/kernel_experiments.py)"
  [model]="whole PyTorch model in FP16: speed, shares, agreement (benchmarks/gpu_model.py)"
  [accuracy]="algm-eval of a trained checkpoint on the GPU, with the kernels and with plain PyTorch operators"
  [training]="ViT-S on CamVid, dense and with ALGM (benchmarks/train_camvid.py)"
)
declare -Ar LIMIT=([build]=300 [kernels]=260 [sanitizer]=150 [plugins]=150 [runtime]=200 [doctor]=300 [rtx]=150 [speed]=150 [model]=480 [accuracy]=90 [training]=570 [experiments]=560)
# Of the training of each network; evaluating and timing both takes about two minutes more.
readonly TRAINING_SECONDS=150
# Small cases of every operator: the sanitizer is slow.
readonly SANITIZED="test_local_merge_of_generic_tokens or (test_global_merge and lengths3) \
or (test_attention and lengths1 and (64 or 80)) or (test_append_tokens_and_unmerge and lengths1 and 13) \
or (test_labels and not 512) \
or (test_cut_windows and not 683) or (test_slide_labels and (53 or 24) and not 2048)"
# The kernel tests, in parts of a process each: nothing runs in one where a kernel has faulted.
readonly PARTS=(local global attention append labels "cut or slide")

work=$PWD/build/gpu
python=${PYTHON:-python3}
only="" budget=0 twin=no list=no

usage() { sed -n '2,/^# Exit code/p' "$0" | sed 's/^# \{0,1\}//'; }
refuse() { echo "gpu_all.sh: $1" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case $1 in
    --list) list=yes ;;
    --cpu-twin) twin=yes ;;
    --only) only=${2:-}; [ -n "$only" ] || refuse "--only needs steps, such as kernels,model"; shift ;;
    --budget) budget=${2:-}; [ -n "$budget" ] || refuse "--budget needs seconds"; shift ;;
    -h | --help) usage; exit 0 ;;
    *) refuse "unknown argument '$1'; --help shows what there is" ;;
  esac
  shift
done
for step in ${only//,/ }; do
  [ -n "${WHAT[$step]:-}" ] || refuse "unknown step '$step'; there are: ${STEPS[*]}"
done

# --- what there is ----------------------------------------------------------------------------------------------------

exists() { [ -e "$1" ]; }
# joined FILES...: those that exist, separated by colons.
joined() {
  local text="" file
  for file in "$@"; do exists "$file" && text=$text${text:+:}$file; done
  echo "$text"
}
first() { local file; for file in "$@"; do exists "$file" && { echo "$file"; return; }; done; }

pictures=${ALGM_PICTURES:-$(first .carry/pictures.npz)}
official=${ALGM_OFFICIAL:-$(first .carry/official)}
checkpoints=${ALGM_CHECKPOINTS:-$(joined .carry/checkpoints/* examples/sample)}
headers=${ALGM_TENSORRT_HEADERS:-$(joined "$PWD"/.carry/tensorrt/headers/*)}
packed=${ALGM_TENSORRT_LIBS:-$(joined "$PWD"/.carry/tensorrt/*.so.*)}
camvid=${ALGM_CAMVID:-$(first .carry/camvid)}
library=${ALGM_PLUGINS_LIB:-}
sanitizer=$(command -v compute-sanitizer || first /usr/local/cuda/bin/compute-sanitizer)

if [ "$list" = yes ]; then
  for step in "${STEPS[@]}"; do printf '%-10s %s (at most %d s)\n' "$step" "${WHAT[$step]}" "${LIMIT[$step]}"; done
  printf '\nlibrary      %s\nTensorRT     %s\nheaders      %s\npictures     %s\nofficial     %s\ncheckpoints  %s\nCamVid       %s\nsanitizer    %s\n' \
    "${library:-to be built}" "${packed:-none}" "${headers:-none}" "${pictures:-drawn scenes}" "${official:-none}" \
    "${checkpoints:-none}" "${camvid:-none}" "${sanitizer:-none}"
  exit 0
fi

out=${OUT:-benchmarks/results}
[ "$twin" = yes ] && out=${OUT:-$work}
mkdir -p "$work/site/algm_trt" "$work/logs" "$out"
out=$(cd "$out" && pwd)
log=${OUT:+$out/gpu_all${only:+_${only%%,*}}.log}
log=${log:-$work/gpu_all.log}
table=$work/steps.tsv
: >"$log"
: >"$table"

# `algm_trt` importable without installing it, with the name and version that commands and records ask for.
for package in exporter plugins engines runtime; do ln -sfn "$PWD/$package" "$work/site/algm_trt/$package"; done
mkdir -p "$work/site/algm_trt.dist-info"
"$python" -c 'import tomllib; print("Metadata-Version: 2.1\nName: algm-trt\nVersion:",
    tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])' >"$work/site/algm_trt.dist-info/METADATA"
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# Tools that are Python packages, and those of CUDA, may be in folders that are not on PATH.
PATH=$PATH:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):/usr/local/cuda/bin
command -v ninja >/dev/null && export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
# Packages that the machine lacks.
if exists .carry/wheels; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/wheels" \
    .carry/wheels/*.whl >>"$log" 2>&1 || echo "the wheels of .carry/wheels could not be installed: see $log"
  PYTHONPATH=$PYTHONPATH:$work/wheels
fi

# --- running a step ---------------------------------------------------------------------------------------------------

wanted() { [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]; }
# note STEP STATUS SECONDS DETAIL
note() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$table"
  printf '%-10s %-8s %4s s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$log"
}
# skip STEP WHY
skip() { note "$1" "not run" 0 "$2"; }
# left LIMIT: seconds that a step may take within the budget.
left() {
  local rest=$((budget - SECONDS))
  if [ "$budget" -eq 0 ] || [ "$rest" -gt "$1" ]; then echo "$1"; else echo "$rest"; fi
}
# last_words FILE: the line that says most: pytest's counts, or the last one.
last_words() {
  local line
  line=$(grep -E '[0-9]+ (passed|failed|skipped|error)' "$1" | tail -n 1)
  [ -n "$line" ] || line=$(grep -v '^[[:space:]]*$' "$1" | tail -n 1)
  line="$line $(grep -E '(ERROR|RACECHECK) SUMMARY' "$1" | tail -n 1)" # of compute-sanitizer
  echo "$line" | tr -d '\t' | sed 's/====*//g' | cut -c 1-160 | sed 's/^ *//; s/ *$//'
}
# attempt STEP NAME COMMAND...: run within the step's limit, into a log of its own.
attempt() {
  local step=$1 name=$2 file=$work/logs/$2.log begin=$SECONDS seconds status verdict detail
  shift 2
  seconds=$(left "${LIMIT[$step]}")
  [ "$seconds" -ge 10 ] || { skip "$name" "the budget of $budget s is spent"; return 0; }
  printf '\n===== %s: %s\n' "$name" "$*" >>"$log"
  # Interrupted, pytest tells what it has found; a program that waits for the GPU hears nothing and is killed.
  timeout --signal=INT --kill-after=15 "$seconds" "$@" >"$file" 2>&1
  status=$?
  cat "$file" >>"$log"
  detail=$(last_words "$file")
  case $status in
    0) verdict=passed ;;
    5) verdict="not run" ;; # pytest found no test
    124 | 137) verdict=failed detail="stopped after $seconds s; $detail" ;;
    *) verdict=failed detail="exit code $status; $detail" ;;
  esac
  # Tests that were all skipped have shown nothing.
  if [ "$verdict" = passed ] && [[ $detail == *skipped* && $detail != *passed* ]]; then
    verdict="not run" detail="$(grep -m 1 '^SKIPPED' "$file" | cut -c 1-160)"
  fi
  if [ "$verdict" = failed ] && grep -qi 'device not supported' "$file"; then
    verdict="not run" detail="compute-sanitizer does not take this device"
  fi
  note "$name" "$verdict" $((SECONDS - begin)) "$detail"
  [ "$verdict" != failed ]
}
# A test that hangs is named before the time is up.
readonly pytest=("$python" -m pytest -o minversion=7 -o faulthandler_timeout=45 -p no:cacheprovider -q)

# --- the steps --------------------------------------------------------------------------------------------------------

# needs_gpu STEP: whether there is one; otherwise the step is skipped.
needs_gpu() { [ "$twin" = no ] || { skip "$1" "needs a GPU"; return 1; }; }
# needs STEP MODULES...: whether Python has them; otherwise the step is skipped.
needs() {
  local step=$1 missing
  shift
  missing=$("$python" - "$@" <<'PYTHON'
import importlib, sys
def there(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
print(*(name for name in sys.argv[1:] if not there(name)))
PYTHON
  )
  [ -z "$missing" ] || { skip "$step" "not installed: $missing"; return 1; }
}

build() {
  if [ "$twin" = yes ]; then
    attempt build build "$python" -c "import pathlib, sys; sys.path.insert(0, 'tests')
from helpers.twin import compile_twin; print(compile_twin(pathlib.Path('$work')))" && sources >"$library.sources"
    return
  fi
  if [ -n "${ALGM_PLUGINS_LIB:-}" ]; then
    skip build "ALGM_PLUGINS_LIB names $library"
    return
  fi
  local target=${gpu:-90}
  attempt build build "$python" -c 'import sys; from algm_trt.plugins.build import main; sys.exit(main())' \
    --arch "$target" --output "$library" --jobs "$(nproc)" && sources >"$library.sources"
}
# sources: of what the library is made; dates say nothing, they are new wherever a checkout was copied.
sources() { find plugins/native plugins/CMakeLists.txt -type f | LC_ALL=C sort | xargs cat | sha256sum; }

kernels() {
  if [ "$twin" = yes ]; then
    attempt kernels kernels "${pytest[@]}" tests/exporter/test_cuda_ops.py -k "odd or missing or functions"
  else
    local tests=("${pytest[@]}" -m gpu tests/plugins/test_kernels_gpu.py tests/plugins/test_slide_kernels_gpu.py) part
    attempt kernels kernels "${tests[@]}" && return
    for part in "${PARTS[@]}"; do attempt kernels "kernels-${part// /-}" "${tests[@]}" -k "$part"; done
  fi
}

sanitizer() {
  needs_gpu sanitizer || return
  [ -n "$sanitizer" ] || { skip sanitizer "compute-sanitizer is not on PATH or in /usr/local/cuda/bin"; return; }
  local tool
  # Without torch's caching every buffer is an allocation of its own, without guards, and leaving it is seen.
  for tool in memcheck racecheck; do
    # Calls of the CUDA API that libraries try and expect to fail are not what is looked for.
    attempt sanitizer "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 86 \
      --report-api-errors no "${pytest[@]}" -m gpu tests/plugins/test_kernels_gpu.py tests/plugins/test_slide_kernels_gpu.py -k "$SANITIZED"
  done
}

# Unpack carried TensorRT libraries; they are a tenth of their size in transit.
unpacked() {
  local file files libraries=""
  mkdir -p "$work/tensorrt"
  IFS=: read -ra files <<<"$packed"
  for file in "${files[@]}"; do
    if [ "${file%.xz}" != "$file" ]; then
      "$python" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' \
        "$file" "$work/tensorrt/$(basename "${file%.xz}")" || continue
      file=$work/tensorrt/$(basename "${file%.xz}")
    fi
    libraries=$libraries${libraries:+:}$file
  done
  echo "$libraries"
}

plugins() {
  export ALGM_TENSORRT_LIBS ALGM_TENSORRT_HEADERS=$headers
  ALGM_TENSORRT_LIBS=$(unpacked)
  if [ "$twin" = yes ]; then
    attempt plugins plugins "${pytest[@]}" tests/plugins/test_plugin_enqueue.py tests/plugins/test_plugin_registry.py
  else
    attempt plugins plugins "${pytest[@]}" -m gpu tests/plugins/test_plugins_gpu.py
  fi
  [ -n "$ALGM_TENSORRT_LIBS" ] && [ -n "$headers" ] ||
    skip registries "no tensorrt-lean library or no headers (ALGM_TENSORRT_LIBS, ALGM_TENSORRT_HEADERS)"
}

runtime() {
  needs_gpu runtime || return
  needs runtime cuda.bindings cv2 PIL tqdm || return
  attempt runtime runtime "${pytest[@]}" -m gpu tests/runtime/backends/test_tensorrt_gpu.py
}

doctor() {
  needs_gpu doctor || return
  needs doctor cv2 PIL tqdm || return
  attempt doctor doctor "$python" -c 'import sys; from algm_trt.engines.doctor.cli import main; sys.exit(main())' \
    --selftest --skip-build --json "$out/gpu_doctor.json"
}

rtx() {
  local pieces=(.carry/rtx/packages.tar.xz.[01])
  needs_gpu rtx || return
  if [ "${#pieces[@]}" -ne 2 ] || ! exists .carry/rtx/plans; then
    skip rtx "no .carry/rtx: carry.py --rtx"
    return
  fi
  needs rtx cuda.bindings cv2 PIL tqdm || return
  mkdir -p "$work/rtx"
  cat "${pieces[@]}" | "$python" -c 'import sys, tarfile
tarfile.open(fileobj=sys.stdin.buffer, mode="r|xz").extractall(sys.argv[1], filter="data")' "$work/rtx"
  attempt rtx rtx env PYTHONPATH="$PYTHONPATH:$work/rtx" "$python" benchmarks/gpu_rtx.py .carry/rtx/plans \
    --json "$out/gpu_rtx.json"
}

speed() {
  needs_gpu speed || return
  attempt speed speed "$python" benchmarks/kernels.py --json "$out/gpu_kernels.json"
}

experiments() {
  needs_gpu experiments || return
  command -v git >/dev/null || command -v patch >/dev/null || { skip experiments "neither git nor patch is here"; return; }
  attempt experiments experiments "$python" benchmarks/kernel_experiments.py --json "$out/gpu_experiments.json"
}

model() {
  local arguments=(--json "$out/gpu_model.json") folders folder
  [ "$twin" = yes ] && arguments+=(--cpu --backbones tiny --batch 3 --size 128 --rounds 1 --calls 1 --checked 1)
  [ -n "$pictures" ] && arguments+=(--pictures "$pictures")
  [ -n "$official" ] && arguments+=(--official "$official")
  IFS=: read -ra folders <<<"$checkpoints"
  for folder in "${folders[@]}"; do arguments+=(--checkpoint "$folder"); done
  attempt model model "$python" benchmarks/gpu_model.py "${arguments[@]}"
}

# evaluate NAME LIBRARY CHECKPOINT ARGUMENTS...
evaluate() {
  local name=$1 plugins=$2 device=cuda
  shift 2
  [ "$twin" = yes ] && device=cpu
  attempt accuracy "$name" env ALGM_PLUGINS_LIB="$plugins" "$python" \
    -c 'import sys; from algm_trt.runtime.evaluation.cli import main; sys.exit(main())' \
    "$@" --data "$camvid" --dataset camvid --device "$device"
}

accuracy() {
  local trained="" folder
  for folder in ${checkpoints//:/ }; do
    [ "$(basename "$folder")" = camvid ] && trained=$(first "$folder/checkpoint.pth")
  done
  [ -n "$camvid" ] && [ -n "$trained" ] || { skip accuracy "no CamVid, or no checkpoint in a folder camvid"; return; }
  needs accuracy cv2 PIL tqdm yaml || return
  local limit=()
  [ "$twin" = yes ] && limit=(--limit 3)
  evaluate accuracy "$library" "$trained:dense" "$trained" "${limit[@]}" --json "$out/gpu_accuracy.json"
  evaluate accuracy-plain none "$trained" --limit 24
}

training() {
  [ -n "$camvid" ] || { skip training "no CamVid (ALGM_CAMVID)"; return; }
  needs training cv2 PIL tqdm yaml || return
  local arguments=("$camvid" -o "$work/camvid" --json "$out/train_camvid.json")
  if [ "$twin" = yes ]; then
    arguments+=(--device cpu --backbone tiny --crop 128 --batch 2 --steps 1000 --seconds 5 --limit 3 --rounds 1)
  else
    arguments+=(--steps 8000 --seconds "$TRAINING_SECONDS")
  fi
  rm -rf "$work/camvid"
  attempt training training "$python" benchmarks/train_camvid.py "${arguments[@]}"
  # Weights never go into the repository. In pieces, because large files may not come back.
  if [ -n "${OUT:-}" ] && exists "$work/camvid/algm"; then
    rm -f "$out"/camvid_algm.tar.*
    tar -C "$work/camvid" -c algm | split -b 15M -d - "$out/camvid_algm.tar."
  fi
}

# --- all of it --------------------------------------------------------------------------------------------------------

gpu="" name="no GPU"
if [ "$twin" = yes ]; then
  name="CPU twin: figures mean nothing"
else
  found=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability(), torch.cuda.get_device_name())' \
    2>>"$log") && gpu=${found%% *} name=${found#* }
fi
echo "device: $name" | tee -a "$log"

# Everything but building needs the library; one of an earlier call must be of the same sources.
if [ "$twin" = yes ]; then library=$work/libalgm_twin.so; else library=${library:-$work/libalgm_plugins.so}; fi
if [ -z "${ALGM_PLUGINS_LIB:-}" ] && [ "$(cat "$library.sources" 2>/dev/null)" != "$(sources)" ]; then
  rm -f "$library"
fi
if wanted build || ! exists "$library"; then build; fi
export ALGM_PLUGINS_LIB=$library
for step in "${STEPS[@]:1}"; do
  wanted "$step" || continue
  if [ "$twin" = no ] && [ -z "$gpu" ]; then
    skip "$step" "PyTorch finds no CUDA device"
  elif ! exists "$library"; then
    skip "$step" "there is no plugin library"
  else
    "$step"
  fi
done

"$python" benchmarks/gpu_summary.py "$table" "$out/gpu_all${only:+_${only%%,*}}.json" "$name"
summary=$?
echo "log: $log"
[ "$twin" = yes ] || [ -n "$gpu" ] || [ "$summary" -ne 0 ] || exit 4
exit "$summary"
