"""The load generator: replays a trace over HTTP against any OpenAI-compatible server."""
