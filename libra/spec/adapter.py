"""A LoRA adapter as the cache sees it: a rank, the modules it changes, and so a number of blocks."""

from dataclasses import dataclass

from libra.errors import LibraError
from libra.spec.model import ATTENTION_MODULES, DEFAULT_BLOCK_TOKENS, ModelSpec


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter. A *unit* is one rank row of one layer: A's rows and B's columns of all its modules."""

    adapter_id: str
    rank: int
    target_modules: tuple[str, ...] = ATTENTION_MODULES

    def unit_elems(self, model: ModelSpec) -> int:
        return sum(sum(model.module_shape(module)) for module in self.target_modules)

    def num_units(self, model: ModelSpec) -> int:
        return self.rank * model.num_layers

    def num_bytes(self, model: ModelSpec) -> int:
        """Bytes of the weights themselves, without the blocks' padding."""
        return self.num_units(model) * self.unit_elems(model) * model.dtype_bytes

    def num_blocks(self, model: ModelSpec, block_tokens: int = DEFAULT_BLOCK_TOKENS) -> int:
        """Whole blocks of the pool; units never straddle blocks.

        Raises LibraError, naming the smallest ``block_tokens`` that fits, when one unit is larger than a block.
        """
        unit_elems, block_elems = self.unit_elems(model), model.block_elems(block_tokens)
        if unit_elems > block_elems:
            smallest = -(-unit_elems // model.block_elems(1))
            raise LibraError(
                f"adapter {self.adapter_id!r}: one rank row of {unit_elems} elements does not fit a block of "
                f"{block_elems} ({block_tokens} tokens of {model.name}); use --block-size {smallest} or more"
            )
        return -(-self.num_units(model) // (block_elems // unit_elems))
