"""Llama-family models and LoRA adapters read from their public formats, and their forward pass over paged KV."""
