"""What a step costs on a device: a roofline with stated coefficients."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from libra.errors import LibraError, unknown
from libra.spec import DeviceSpec, ModelSpec

# Shares of the datasheet's rates that a good engine reaches; measured profiles replace them.
COMPUTE_EFFICIENCY = 0.6
MEMORY_EFFICIENCY = 0.8
LINK_EFFICIENCY = 0.85
STEP_OVERHEAD_S = 1.5e-3
# Two LoRA kernels for each of three groups of modules per layer, about 2 us each in a captured graph.
ADAPTER_OVERHEAD_PER_LAYER_S = 12e-6
ALL_REDUCE_LATENCY_S = 8e-6
# CaraServe's CPU-assisted prefill of Llama-2-7B, rank 64 on q, k and v, takes 61 ms for 64 tokens and 126 ms for 256:
# a line of 0.339 ms a token, which is 297 GFLOP/s of adapter products, and 39.3 ms, which is 1.23 ms for each layer.
CPU_ADAPTER_FLOPS_PER_S = 297e9
CPU_HANDOVER_S = 1.23e-3

_NO_COEFFICIENTS = ("name", "source", "r_squared", "model", "device", "tensor_parallel", "fit")
# What a step takes beside the roofline. No datasheet tells it.
BESIDE_ROOFLINE = (
    "sequence_s",
    "context_token_s",
    "several_s",
    "chunk_s",
    "adapter_chunk_s",
    "prefix_pair_s",
    "mixed_s",
    "adapter_mixed_s",
    "adapter_first_s",
    "adapter_first_byte_s",
    "adapter_gather_byte_s",
)
# Left out of a profile's file while it is at its default.
_MEASURED_ONLY = (*BESIDE_ROOFLINE, "model", "device", "tensor_parallel", "fit")


@dataclass(frozen=True)
class Profile:
    """Coefficients of one (device, model, tensor parallelism); rates are over all GPUs together.

    A step takes ``step_overhead_s + max(flops / flops_per_s, bytes / memory_bytes_per_s) + communication + adapters +
    beyond``. adapters = ``adapter_overhead_s`` if any is in the batch + their bytes / ``memory_bytes_per_s`` + their
    flops / ``flops_per_s`` + ``adapter_chunk_s`` for each one with a prefill chunk + ``adapter_mixed_s`` if decoding
    sequences and chunks both have some + ``adapter_gather_byte_s`` for each byte of each decoding sequence's own +
    ``adapter_first_s`` and ``adapter_first_byte_s`` a byte for each that has not been used since it was loaded.
    beyond = ``sequence_s`` for each sequence + ``context_token_s`` for each token whose KV is read + ``several_s`` if
    there is more than one token + ``chunk_s`` for each prefill chunk + ``prefix_pair_s`` for each pair of a chunk's
    token and one before the chunk + ``mixed_s`` if there are both decoding sequences and chunks: what an engine spends
    beside the roofline. An adapter's product on CPU cores takes its flops / ``cpu_adapter_flops_per_s`` and
    ``cpu_handover_s`` a layer.
    ``source`` says how the coefficients were got and goes into every caption.

    A measured profile names the ``model`` (its shapes), the ``device`` and the degree of tensor parallelism it holds
    for, and keeps in ``fit`` how, when and where it was measured, with every residual (docs/profiles.md).
    """

    name: str
    source: str
    flops_per_s: float
    memory_bytes_per_s: float
    step_overhead_s: float
    adapter_overhead_s: float
    communication_per_step_s: float
    communication_per_token_s: float
    link_bytes_per_s: float
    link_latency_s: float
    disk_bytes_per_s: float
    disk_latency_s: float
    r_squared: float | None = None
    cpu_adapter_flops_per_s: float = CPU_ADAPTER_FLOPS_PER_S
    cpu_handover_s: float = CPU_HANDOVER_S
    sequence_s: float = 0.0
    context_token_s: float = 0.0
    several_s: float = 0.0
    chunk_s: float = 0.0
    adapter_chunk_s: float = 0.0
    prefix_pair_s: float = 0.0
    mixed_s: float = 0.0
    adapter_mixed_s: float = 0.0
    adapter_first_s: float = 0.0
    adapter_first_byte_s: float = 0.0
    adapter_gather_byte_s: float = 0.0
    model: Mapping[str, Any] | None = None
    device: str | None = None
    tensor_parallel: int | None = None
    fit: Mapping[str, Any] | None = None

    def check_use(self, model: ModelSpec, device: str, tensor_parallel: int) -> None:
        """Raises LibraError when the profile was measured for anything else. Adapters and names do not matter."""
        fault = None
        if self.model is not None and (difference := _difference(self.model, asdict(model))):
            fault = f"model: {self.model.get('name')}, not {model.name} ({difference})"
        elif self.device not in (None, device):
            fault = f"device: {self.device}, not {device}"
        elif self.tensor_parallel not in (None, tensor_parallel):
            fault = f"degree of tensor parallelism: {self.tensor_parallel}, not {tensor_parallel}"
        if fault is not None:
            raise LibraError(
                f"profile {self.name!r} was measured for another {fault}; use it for that, or measure "
                "one with `libra profile`"
            )

    def with_link(self, bytes_per_s: float) -> "Profile":
        """The same profile with another link bandwidth per direction."""
        source = f"{self.source}, link set to {bytes_per_s / 1e9:g} GB/s"
        return replace(self, link_bytes_per_s=bytes_per_s, source=source)

    def as_dict(self) -> dict[str, Any]:
        defaults = {field.name: field.default for field in fields(self)}
        values = asdict(self)
        return {key: value for key, value in values.items() if key not in _MEASURED_ONLY or value != defaults[key]}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n")


def load_profile(path: Path) -> Profile:
    """Reads a profile; raises LibraError on a file that is not one."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LibraError(f"profile {path}: cannot be read as JSON ({error}); write one with `libra profile`") from error
    if not isinstance(values, dict):
        raise LibraError(f"profile {path}: holds no JSON object; write one with `libra profile`")
    known = {field.name for field in fields(Profile)}
    for key, value in values.items():
        if key not in known:
            raise unknown(f"field in profile {path}:", key, known)
        if key in ("model", "fit") and not isinstance(value, dict | None):
            raise LibraError(f"profile {path}: {key} is {value!r}; it must be an object, or left out")
        if key not in _NO_COEFFICIENTS:
            _check_coefficient(path, key, value)
    try:
        return Profile(**values)
    except TypeError as error:
        raise LibraError(f"profile {path}: {error}") from error


def _difference(measured: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first difference that decides how long a step takes, "" without one."""
    for key, value in wanted.items():
        if key not in ("name", "default_tensor_parallel") and measured.get(key) != value:
            return f"{key} {measured.get(key)}, not {value}"
    return ""


def _check_coefficient(path: Path, name: str, value: object) -> None:
    """Rates must be above 0 and costs not below; raises LibraError."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number or value < 0 or (value == 0 and name.endswith("_per_s")):  # type: ignore[operator]
        raise LibraError(f"profile {path}: {name} is {value!r}; rates must be above 0 and costs 0 or more")


def datasheet_profile(device: DeviceSpec, model: ModelSpec, tensor_parallel: int) -> Profile:
    """A profile from datasheet rates and the stated efficiencies, nothing measured."""
    exchanged = 2 * (tensor_parallel - 1) / tensor_parallel * model.hidden_size * model.dtype_bytes
    reductions = 2 * model.num_layers if tensor_parallel > 1 else 0
    return Profile(
        name=f"{device.name}-{model.name}-tp{tensor_parallel}",
        source=(f"datasheet rates x {COMPUTE_EFFICIENCY} compute, {MEMORY_EFFICIENCY} memory, {LINK_EFFICIENCY} link"),
        flops_per_s=device.flops_per_s * tensor_parallel * COMPUTE_EFFICIENCY,
        memory_bytes_per_s=device.hbm_bytes_per_s * tensor_parallel * MEMORY_EFFICIENCY,
        step_overhead_s=STEP_OVERHEAD_S,
        adapter_overhead_s=ADAPTER_OVERHEAD_PER_LAYER_S * model.num_layers,
        communication_per_step_s=reductions * ALL_REDUCE_LATENCY_S,
        communication_per_token_s=reductions * exchanged / device.peer_bytes_per_s,
        link_bytes_per_s=device.link_bytes_per_s * tensor_parallel * LINK_EFFICIENCY,
        link_latency_s=device.link_latency_s,
        disk_bytes_per_s=device.disk_bytes_per_s,
        disk_latency_s=device.disk_latency_s,
    )
