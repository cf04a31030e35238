"""Measurements that need a GPU. Here, without one, only their correctness checks run, in Triton's interpreter."""
