"""The machine's own cores: the kernels of `branchwise._C`, weights packed for them, passes recorded."""
