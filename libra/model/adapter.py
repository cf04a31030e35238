"""A PEFT LoRA directory, checked against its base model before any weight is read. Needs no torch."""

import math
import re
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libra.errors import LibraError
from libra.model.files import open_safetensors, read_json
from libra.spec import TARGET_MODULES, AdapterSpec, ModelSpec

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
DEFAULT_MAX_LORA_RANK = 128

# Settings that change what is computed, with the values under which they change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": ([], None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": ([], None),
    "layer_replication": ([], None),
    "fan_in_fan_out": (False, None),
    "trainable_token_indices": ([], {}, None),
    "target_parameters": ([], None),
    "alora_invocation_tokens": ([], None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": ({}, None),
    "kasa_config": ({}, None),
    "monteclora_config": ({}, None),
    "velora_config": ({}, None),
}
# These initialisations also change the base weights, which the adapter alone does not bring along.
_BASE_CHANGING_INITS = ("pissa", "olora", "loftq", "corda")
_TENSOR_NAME = re.compile(
    r"(?:base_model\.model\.)?model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight"
)


@dataclass(frozen=True)
class AdapterSource:
    """An adapter that fits the base model: where it is, its ``spec``, and the factor on ``B A``.

    ``tensors[(layer, module)]`` are the names of A and B in the weights file, which has ``weights_bytes``. Whenever it
    is read it must lie below one of ``roots``, which have no links in them; without any, it may lie anywhere.
    """

    directory: Path
    spec: AdapterSpec
    scaling: float
    tensors: dict[tuple[int, str], tuple[str, str]]
    weights_bytes: int
    roots: tuple[Path, ...] = ()

    @property
    def weights_path(self) -> Path:
        return self.directory / WEIGHTS_FILE


def is_below(path: Path, roots: Iterable[Path]) -> bool:
    """Whether ``path`` lies below one of ``roots``, wherever links lead. ``roots`` have no links in them."""
    try:
        place = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name with a NUL in it
        return False
    return any(place.is_relative_to(root) for root in roots)


def read_adapter(
    directory: Path,
    model: ModelSpec,
    adapter_id: str | None = None,
    max_lora_rank: int = DEFAULT_MAX_LORA_RANK,
    roots: tuple[Path, ...] = (),
) -> AdapterSource:
    """Reads the config and the header of the weights; ``adapter_id`` is the directory's name unless given. ``roots``
    are kept for whoever reads the weights.

    Raises LibraError for missing or corrupt files, a rank above ``max_lora_rank``, whatever is not supported (by
    name), and shapes of another base model (by layer and module).
    """
    config = read_json(directory / CONFIG_FILE)
    _check_supported(directory, config)
    rank, scaling = _rank_and_scaling(directory, config, max_lora_rank)
    weights_bytes = _weights_bytes(directory)
    shapes = _tensor_shapes(directory)
    tensors = _pair_tensors(directory, shapes, model)
    for (layer, module), names in tensors.items():
        fan_in, fan_out = model.module_shape(module)
        for name, expected in zip(names, ((rank, fan_in), (fan_out, rank)), strict=True):
            if shapes[name] != expected:
                raise LibraError(
                    f"{directory}: layer {layer} {module}: {name.rsplit('.', 2)[-2]} has shape {list(shapes[name])}, "
                    f"{model.name} at rank {rank} needs {list(expected)}; the adapter was made for another base model"
                )
    modules = tuple(module for module in TARGET_MODULES if (0, module) in tensors)
    spec = AdapterSpec(adapter_id or directory.resolve().name, rank, modules)
    return AdapterSource(directory, spec, scaling, tensors, weights_bytes, roots)


def _check_supported(directory: Path, config: dict[str, Any]) -> None:
    path = directory / CONFIG_FILE
    if config.get("peft_type") != "LORA":
        raise LibraError(f"{path}: peft_type {config.get('peft_type')!r} is not supported; use a LORA adapter")
    for key, harmless in _UNSUPPORTED.items():
        if config.get(key) not in harmless:
            raise LibraError(f"{path}: {key} = {config[key]!r} is not supported; train the adapter without it")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING_INITS):
        raise LibraError(
            f"{path}: init_lora_weights = {init!r} also changes the base model and is not supported; "
            "convert the adapter to plain LoRA with peft (path_initial_model_for_weight_conversion)"
        )


def _rank_and_scaling(directory: Path, config: dict[str, Any], max_lora_rank: int) -> tuple[int, float]:
    path, rank, alpha = directory / CONFIG_FILE, config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank <= 0:
        raise LibraError(f"{path}: r = {rank!r} must be a positive whole number")
    if rank > max_lora_rank:
        raise LibraError(f"{path}: rank {rank} is above the limit of {max_lora_rank}; use --max-lora-rank {rank}")
    # Whole numbers in JSON have no largest; NaN and infinity are no more than a name away.
    if not isinstance(alpha, int | float) or not abs(alpha) <= sys.float_info.max:
        raise LibraError(f"{path}: lora_alpha = {alpha!r:.40} must be a finite number")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _weights_bytes(directory: Path) -> int:
    """The size of the weights file. Raises LibraError when there is none, or something else in its place."""
    path = directory / WEIGHTS_FILE
    try:
        found = path.stat()
    except FileNotFoundError:
        if (directory / "adapter_model.bin").exists():
            raise LibraError(
                f"{directory}: only adapter_model.bin is there and pickles are not read; save it as {path.name}"
            ) from None
        raise LibraError(f"{path}: no such file; download it again") from None
    except OSError as error:
        raise LibraError(f"{path}: cannot be read ({error.strerror}); check its permissions and links") from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
        raise LibraError(f"{path}: is no file; download it again")
    return found.st_size


def _tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    # The NumPy framework reads headers without importing torch.
    file = open_safetensors(directory / WEIGHTS_FILE, framework="np")
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _pair_tensors(
    directory: Path, shapes: dict[str, tuple[int, ...]], model: ModelSpec
) -> dict[tuple[int, str], tuple[str, str]]:
    """(layer, module) -> names of A and B; raises LibraError unless every layer has the same complete pairs."""
    found: dict[tuple[int, str, str], str] = {}
    for name in shapes:
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or match[2] not in TARGET_MODULES:
            raise LibraError(
                f"{directory}: tensor {name} is not supported; adapters may target {', '.join(TARGET_MODULES)}"
            )
        found[int(match[1]), match[2], match[3]] = name
    modules = {module for _, module, _ in found}
    if not modules:
        raise LibraError(f"{directory / WEIGHTS_FILE}: holds no LoRA weights; save the adapter again")
    beyond = max(layer for layer, _, _ in found)
    if beyond >= model.num_layers:
        raise LibraError(
            f"{directory}: layer {beyond} is beyond the {model.num_layers} layers of {model.name}; "
            "the adapter was made for another base model"
        )
    pairs = {}
    for layer in range(model.num_layers):
        for module in modules:
            for side in "AB":
                if (layer, module, side) not in found:
                    raise LibraError(
                        f"{directory}: layer {layer} {module}: lora_{side} is missing, though other layers have it; "
                        "adapters must target the same modules in every layer of the base model"
                    )
            pairs[layer, module] = (found[layer, module, "A"], found[layer, module, "B"])
    return pairs
