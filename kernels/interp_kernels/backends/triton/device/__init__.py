"""The kernels themselves: code for the GPU in the language of Triton, one file a kernel; no host code."""
