"""Plans of algm-build-engine on a GPU, through TensorRT or TensorRT-RTX."""
