"""Triton kernels; imported only where a tensor is on a CUDA device."""
