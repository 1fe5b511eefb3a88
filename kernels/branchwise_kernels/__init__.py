"""Triton kernels of branchwise: imports torch and triton only, one op per file."""
