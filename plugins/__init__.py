"""The operator contract of domain `algm`: specification, NumPy reference, native implementation."""
