"""Which adapters the cache knows, and how many blocks each takes in HBM."""

import math
from collections.abc import Iterable

from libra.cache.holding import AdapterInUse
from libra.cache.memory import ADAPTER, CacheMemory
from libra.cache.tree import PRESENT
from libra.errors import LibraError, unknown
from libra.spec import AdapterSpec, ModelSpec


class AdapterRegistry:
    """Adds adapters to the memory's tree and removes them. ``slot_blocks`` is the size of a padded slot, 0 where
    adapters take their exact size."""

    def __init__(self, memory: CacheMemory, model: ModelSpec, block_tokens: int) -> None:
        self._memory = memory
        self._model = model
        self._block_tokens = block_tokens
        self.slot_blocks = 0
        memory.tree.add_adapter(None, 0, 0, 0)

    def register(self, adapters: Iterable[AdapterSpec], slot_blocks: int) -> None:
        """Adds the adapters known from the start, in host memory as far as it has room, the rest on disk. Padded slots
        have at least ``slot_blocks``.

        Raises LibraError when a static share cannot hold one slot, naming the smallest share that works.
        """
        tree, host = self._memory.tree, self._memory.host
        sizes = [(spec, spec.num_blocks(self._model, self._block_tokens)) for spec in adapters]
        largest = max([slot_blocks, *(exact for _, exact in sizes)])
        self._check_region(largest)
        if self._memory.policy.adapter_slots == "padded":
            self.slot_blocks = largest
        for spec, exact in sizes:
            node = tree.add_adapter(spec, self.slot_blocks or exact, exact, spec.num_bytes(self._model))
            if host.num_free >= exact:
                tree.host_blocks[node] = host.kv_region.allocate(exact, node)
                tree.enter_host([node], PRESENT)

    def _check_region(self, largest: int) -> None:
        hbm, room = self._memory.hbm, self._memory.region(ADAPTER).num_blocks
        if largest <= room:
            return
        share = _smallest_share(largest, hbm.num_blocks) if hbm.is_split else 1.0
        remedy = f"a share of {share:.3f} or more memory" if share < 1.0 else "more memory"
        raise LibraError(
            f"policy {self._memory.policy.name!r}: the largest adapter takes {largest} blocks, its region of HBM has "
            f"{room} of {hbm.num_blocks}; {remedy} would do"
        )

    def add(self, spec: AdapterSpec) -> None:
        """Adds an adapter that is on disk. Raises LibraError when its id is taken or it is too large."""
        if spec.adapter_id in self._memory.tree.adapter_nodes:
            raise LibraError(f"adapter {spec.adapter_id!r} is there already; remove it first, or use another name")
        exact = spec.num_blocks(self._model, self._block_tokens)
        room = self.slot_blocks or self._memory.region(ADAPTER).num_blocks
        if exact > room:
            place = "slot" if self.slot_blocks else "region of HBM"
            raise LibraError(
                f"policy {self._memory.policy.name!r}: adapter {spec.adapter_id!r} of rank {spec.rank} takes {exact} "
                f"blocks, its {place} has {room}; start with a larger --max-lora-rank or more memory"
            )
        self._memory.tree.add_adapter(spec, self.slot_blocks or exact, exact, spec.num_bytes(self._model))

    def remove(self, adapter_id: str) -> None:
        """Removes an adapter and its KV from both tiers. Raises LibraError when it is unknown, AdapterInUse while
        anything of it is in use or in motion."""
        nodes = self._memory.tree.adapter_nodes
        if adapter_id not in nodes:
            raise unknown("adapter", adapter_id, [name for name in nodes if name is not None])
        if not self._memory.is_idle(nodes[adapter_id]):
            raise AdapterInUse(f"adapter {adapter_id!r} is in motion; remove it when its transfers have ended")
        self._memory.remove_adapter(nodes[adapter_id])


def _smallest_share(num_blocks: int, total: int) -> float:
    """The smallest share in thousandths that, cut in whole blocks, leaves room for ``num_blocks``."""
    thousandths = math.ceil(1000 * num_blocks / total)
    if math.floor(thousandths / 1000 * total) < num_blocks:
        thousandths += 1
    return thousandths / 1000
