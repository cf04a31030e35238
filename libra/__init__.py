"""libra: which adapters and which KV caches should be in GPU memory right now, and what that choice does to latency."""

__version__ = "0.1.0"
