"""What a pass is made of: pure functions; torch for CPU tensors, Triton kernels for CUDA."""
