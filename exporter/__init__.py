"""Checkpoint to PyTorch model to ONNX."""
