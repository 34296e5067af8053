"""The receiver that is captured: in torch for the host, as CUDA kernels for a GPU."""
