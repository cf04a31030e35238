"""Greedy tokens by transformers and peft, one adapter at a time: what the engine must reproduce."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def greedy_tokens(model: Path, adapter: Path | None, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """``num_tokens`` new tokens for each prompt, without a cache of any kind."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter).eval()
    outputs = []
    with torch.inference_mode():
        for prompt in prompts:
            tokens = list(prompt)
            for _ in range(num_tokens):
                logits = network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
                tokens.append(int(logits.argmax()))
            outputs.append(tokens[len(prompt) :])
    return outputs
