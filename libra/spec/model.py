"""What the cache and the cost models must know of a base model: its shapes."""

from dataclasses import dataclass

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION_MODULES = TARGET_MODULES[:4]
DEFAULT_BLOCK_TOKENS = 32


@dataclass(frozen=True)
class ModelSpec:
    """Shapes of a Llama-family decoder. ``dtype_bytes`` holds for weights, KV and adapters alike.

    ``default_tensor_parallel`` is the number of GPUs the paper serves the model on (HPCA version, section VI).
    """

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    dtype_bytes: int = 2
    tied_embeddings: bool = False
    default_tensor_parallel: int = 1

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype_bytes

    def block_bytes(self, block_tokens: int = DEFAULT_BLOCK_TOKENS) -> int:
        """Bytes of one pool block: the KV of ``block_tokens`` tokens over all layers."""
        return block_tokens * self.kv_bytes_per_token

    def block_elems(self, block_tokens: int = DEFAULT_BLOCK_TOKENS) -> int:
        return self.block_bytes(block_tokens) // self.dtype_bytes

    def module_shape(self, module: str) -> tuple[int, int]:
        """(in features, out features) of a LoRA target module."""
        query, key_value = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes = {
            "q_proj": (self.hidden_size, query),
            "k_proj": (self.hidden_size, key_value),
            "v_proj": (self.hidden_size, key_value),
            "o_proj": (query, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }
        return shapes[module]

    @property
    def layer_params(self) -> int:
        """Weights of the matrix products of one layer."""
        return sum(fan_in * fan_out for fan_in, fan_out in map(self.module_shape, TARGET_MODULES))

    @property
    def num_params(self) -> int:
        """All weights, norms left out (they are under a thousandth)."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * self.layer_params + embeddings

    @property
    def weight_bytes(self) -> int:
        return self.num_params * self.dtype_bytes
