"""`foundryrt doctor`: what this machine offers and whether a bundle can run on it.

Everything is asked of NVML, /proc and the installed packages: no CUDA context is made.
"""
