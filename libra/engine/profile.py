"""What a step costs on a device: a roofline with stated coefficients."""

import json
import math
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


@dataclass(frozen=True)
class Profile:
    """Coefficients of one (device, model, tensor parallelism); rates are over all GPUs together.

    A step takes ``step_overhead_s + max(flops / flops_per_s, bytes / memory_bytes_per_s) + communication + adapters``,
    where adapters = ``adapter_overhead_s`` if any is in the batch + their bytes / ``memory_bytes_per_s`` + their flops
    / ``flops_per_s``. ``source`` says how the coefficients were got and goes into every caption.
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

    def with_link(self, bytes_per_s: float) -> "Profile":
        """The same profile with another link bandwidth per direction."""
        source = f"{self.source}, link set to {bytes_per_s / 1e9:g} GB/s"
        return replace(self, link_bytes_per_s=bytes_per_s, source=source)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n")


def load_profile(path: Path) -> Profile:
    """Reads a profile; raises LibraError on a file that is not one."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LibraError(f"profile {path}: cannot be read as JSON ({error}); write one with Profile.save") from error
    if not isinstance(values, dict):
        raise LibraError(f"profile {path}: holds no JSON object; write one with Profile.save")
    known = {field.name for field in fields(Profile)}
    for key, value in values.items():
        if key not in known:
            raise unknown(f"field in profile {path}:", key, known)
        if key not in ("name", "source", "r_squared"):
            _check_coefficient(path, key, value)
    try:
        return Profile(**values)
    except TypeError as error:
        raise LibraError(f"profile {path}: {error}") from error


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
