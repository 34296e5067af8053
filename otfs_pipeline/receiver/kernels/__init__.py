"""The receiver's CUDA kernels, and what compiles and launches them."""
