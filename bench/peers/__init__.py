"""libra beside the systems it is held against: the real vLLM and SGLang's own cache, on this machine's CPU."""
