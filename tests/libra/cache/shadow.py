"""What every block ought to contain, followed through computation and copies.

The simulator moves no data. This copier moves labels instead, so that a test can prove that a sequence finds its own
tokens in the blocks it points at, whatever was evicted, reloaded, shared or overwritten on the way.
"""

from typing import Any

from libra.cache.manager import CacheManager
from libra.engine.link import Copier, Direction, Transfer
from libra.engine.sequence import Sequence

Content = tuple[Any, ...]


class ShadowCopier(Copier):
    """Contents of both tiers: (adapter, all tokens up to the last one in the block), or an adapter's n-th block."""

    def __init__(self) -> None:
        self.hbm: dict[int, Content] = {}
        self.host: dict[int, Content] = {}

    def copy(self, transfer: Transfer) -> None:
        if transfer.direction is Direction.DISK:
            self.hbm.update({block: (transfer.adapter_id, n) for n, block in enumerate(transfer.hbm_blocks)})
            return
        for hbm_block, host_block in zip(transfer.hbm_blocks, transfer.host_blocks, strict=True):
            if transfer.direction is Direction.IN:
                self.hbm[hbm_block] = self.host[host_block]
            else:
                self.host[host_block] = self.hbm[hbm_block]

    def fill_host(self, manager: CacheManager) -> None:
        """Puts the adapters where registration has placed them."""
        tree = manager.memory.tree
        for adapter_id, node in tree.adapter_nodes.items():
            self.host.update({block: (adapter_id, n) for n, block in enumerate(tree.host_blocks[node])})

    def compute(self, sequence: Sequence, num_tokens: int) -> None:
        """Writes the KV of the next ``num_tokens`` tokens and advances the sequence."""
        for _ in range(num_tokens):
            position = sequence.num_computed
            block = sequence.block_table[position // sequence.block_tokens]
            self.hbm[block] = (sequence.adapter_id, tuple(sequence.tokens[: position + 1].tolist()))
            sequence.num_computed += 1

    def check(self, sequence: Sequence, adapter_blocks: int) -> None:
        """Proves that a sequence whose loads have ended finds its own KV and its own adapter."""
        size, known = sequence.block_tokens, sequence.tokens.tolist()
        for start in range(0, sequence.num_computed, size):
            expected = (sequence.adapter_id, tuple(known[: min(start + size, sequence.num_computed)]))
            found = self.hbm[sequence.block_table[start // size]]
            assert found == expected, f"request {sequence.request.id} reads {found}, not {expected}"
        found_adapter = [self.hbm[block] for block in sequence.adapter_blocks[:adapter_blocks]]
        assert found_adapter == [(sequence.adapter_id, n) for n in range(adapter_blocks)]
