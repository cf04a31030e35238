"""The engine: step loop, scheduler, executors and links."""
