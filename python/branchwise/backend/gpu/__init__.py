"""Devices that run the Triton kernels of `branchwise_kernels`: an NVIDIA GPU, or Triton's interpreter."""
