"""SGLang's own radix cache on the requests of a file, driven as its scheduler drives it for one request at a time.

Run by SGLang's Python, not libra's: ``python sglang_side.py REQUESTS.npz``. It needs what SGLang's cache needs (torch,
triton, numpy, ...) and the wheel ``sglang``, and prints one JSON object: hit tokens by request, seconds by operation.
"""

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import sys
import time
import types
from array import array
from pathlib import Path
from typing import Any

import numpy as np


class Allocator:
    """Counts tokens of whole pages; what SGLang's cache asks of an allocator in a simulation."""

    device = "cpu"

    def __init__(self, num_tokens: int) -> None:
        self.available = num_tokens

    def free(self, indices: Any) -> None:
        self.available += len(indices)

    def free_segment(self, indices: Any, start_pos: int = 0) -> None:
        self.available += len(indices)


class Server:
    """A cache of ``capacity`` tokens, and what SGLang's scheduler does with it over a request's life."""

    def __init__(self, page_size: int, capacity: int) -> None:
        self._radix = importlib.import_module("sglang.srt.mem_cache.radix_cache")
        self._base = importlib.import_module("sglang.srt.mem_cache.base_prefix_cache")
        self._torch = importlib.import_module("torch")
        self.allocator = Allocator(capacity)
        self.cache = self._radix.RadixCache.create_simulated(mock_allocator=self.allocator, page_size=page_size)
        self.page_size = page_size
        self.seconds = {"match": 0.0, "insert": 0.0, "evict": 0.0}
        self.evicted_beyond_need = 0

    def serve(self, prompt: "array[int]", output: "array[int]", adapter: str) -> int:
        """One request from admission to release; returns the prompt tokens found in the cache."""
        matched = self._match(prompt, adapter, len(prompt) - 1)
        hit, node = matched.device_prefix_len, matched.last_device_node
        self.cache.inc_lock_ref(node)
        # alloc_paged_token_slots_extend and _decode reckon with one page more than may be needed.
        spare = self.page_size if self.page_size > 1 else 0
        self._allocate(self._pages(len(prompt)) - hit, demand=len(prompt) - hit + spare)
        node, protected = self._checkpoint(prompt, len(prompt), adapter, hit, node)
        # The last token of an answer is never computed.
        computed = len(prompt) + len(output) - 1
        for length in range(len(prompt) + 1, computed + 1):
            self._allocate(self._pages(length) - self._pages(length - 1), demand=self.page_size)
        node, protected = self._checkpoint(prompt + output[:-1], len(prompt), adapter, protected, node)
        self.allocator.available += self._pages(computed) - protected
        self.cache.dec_lock_ref(node)
        return int(hit)

    def _pages(self, length: int) -> int:
        """Tokens of the pages that ``length`` tokens take."""
        return -(-length // self.page_size) * self.page_size

    def _key(self, tokens: "array[int]", adapter: str, limit: int | None = None) -> Any:
        return self._radix.RadixKey(tokens, extra_key=adapter, limit=limit)

    def _match(self, tokens: "array[int]", adapter: str, limit: int | None = None) -> Any:
        started = time.process_time()
        matched = self.cache.match_prefix(self._base.MatchPrefixParams(key=self._key(tokens, adapter, limit)))
        self.seconds["match"] += time.process_time() - started
        return matched

    def _allocate(self, num_tokens: int, demand: int) -> None:
        missing = demand - self.allocator.available
        if missing > 0:
            started = time.process_time()
            evicted = self.cache.evict(self._base.EvictParams(num_tokens=missing)).num_tokens_evicted
            self.seconds["evict"] += time.process_time() - started
            self.evicted_beyond_need += evicted - missing
        self.allocator.available -= num_tokens
        assert self.allocator.available >= 0, "the request does not fit"

    def _checkpoint(
        self, tokens: "array[int]", prompt: int, adapter: str, protected: int, node: Any
    ) -> tuple[Any, int]:
        """``RadixCache.checkpoint``: enters whole pages, frees what was there already, and moves the lock.

        Returns the node that is locked now, and how many tokens the cache owns of the request's.
        """
        key = self._key(tokens, adapter).page_aligned(self.page_size)
        started = time.process_time()
        values = self._torch.zeros(len(key), dtype=self._torch.int64)
        known = self.cache.insert(self._base.InsertParams(key=key, value=values)).prefix_len
        prompt_pages = prompt // self.page_size * self.page_size
        if 0 < prompt_pages < len(key):
            self.cache.insert(self._base.InsertParams(key=key[:prompt_pages], value=values[:prompt_pages], priority=1))
        self.seconds["insert"] += time.process_time() - started
        self.allocator.available += max(known - protected, 0)
        matched = self._match(tokens[: len(key)], adapter)
        self.cache.dec_lock_ref(node)
        self.cache.inc_lock_ref(matched.last_device_node)
        return matched.last_device_node, len(key)


def main(path: Path) -> None:
    skip_package_start()
    data = np.load(path)
    server = Server(int(data["page_size"]), int(data["capacity_tokens"]))
    hits, position = [], 0
    for prompt, output, adapter in zip(data["prompts"], data["outputs"], data["adapters"], strict=True):
        tokens = array("q", data["tokens"][position : position + prompt + output].tobytes())
        position += prompt + output
        hits.append(server.serve(tokens[:prompt], tokens[prompt:], str(adapter)))
    told = {
        "hit_tokens": hits,
        "seconds": server.seconds,
        "evicted_beyond_need": server.evicted_beyond_need,
        "sglang": importlib.metadata.version("sglang"),
    }
    sys.stdout.write(json.dumps(told) + "\n")


def skip_package_start() -> None:
    """Lets the cache's modules be imported without what they never use: the package's own start, which wants a GPU's
    libraries, and torchvision, of which the configurations of models that see want names."""
    found = importlib.util.find_spec("sglang")
    if found is None or found.submodule_search_locations is None:
        sys.exit("error: this Python has no package sglang; install its wheel (pip install --no-deps sglang)")
    package = types.ModuleType("sglang")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["sglang"] = package
    if importlib.util.find_spec("torchvision") is None:
        # transformers asks for torchvision on its own terms, and does without.
        getattr(importlib.import_module("transformers"), "AutoProcessor")  # noqa: B009 - it is loaded when asked for
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            sys.modules[name] = Unused(name)


class Unused(types.ModuleType):
    """A module that has every name and does nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unused(f"{self.__name__}.{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
