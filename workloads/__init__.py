"""Workloads: the trace format, generators after the paper, readers of public traces, and what a trace asks of a cache.

Knows ``libra.request`` and nothing of engines. Start with ``workloads.registry`` (generators by name),
``workloads.load`` (any trace file) and ``workloads.trace`` (the format).
"""
