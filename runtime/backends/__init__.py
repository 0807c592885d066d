"""What runs a model: ONNX Runtime, OpenVINO, TensorRT. `algm_trt.runtime.engine` chooses between them."""
