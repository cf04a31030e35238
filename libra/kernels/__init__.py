"""Triton kernels over the unified pool, each with a torch reference of the same signature beside it."""

# What `--backend` takes; see libra.kernels.backend. Here, so that listing them imports neither torch nor Triton.
BACKENDS = ("torch", "triton")
