"""LoRA products by others on the batches of libra.gpu.lora_cases: vLLM's Triton kernels, and a layer of peft."""

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.gpu.case import Case, Scale
from bench.gpu.lora_cases import LoraProducts
from bench.gpu.world import World, model_of
from libra.errors import LibraError
from libra.kernels.lora_plan import DECODE
from libra.model.lora import OUTPUT, QKV
from libra.spec import AdapterSpec

_VLLM_OPS = "vllm.lora.ops.triton_ops"


def peer_cases(scale: Scale, dtype: torch.dtype, device: torch.device, vllm: Path | None) -> Iterator[Case]:
    """vLLM's kernels where ``vllm`` names its sources, and peft's mixed batch with libra's on the same layer."""
    if vllm is not None and device.type != "cuda":
        raise LibraError(f"vLLM's kernels run on a CUDA device, not on {device.type}; leave --peer-vllm out")
    operations = None if vllm is None else VllmOperations(vllm)
    spec = model_of(scale)
    for batch, adapters, rank in scale.lora:
        blocks = adapters * AdapterSpec("a", rank).num_blocks(spec, scale.block_tokens)
        products = LoraProducts(World.make(scale, blocks, dtype, device), batch, adapters, rank, DECODE)
        if operations is not None:
            for group in (QKV, OUTPUT):
                yield products.case("vllm", group, operations.runner(products, group))
        yield from _peft_cases(products)


class VllmOperations:
    """vLLM's shrink and expand kernels, from the sources in a directory that holds the package ``vllm``."""

    def __init__(self, path: Path) -> None:
        """Raises LibraError when they do not import from there."""
        sys.path.insert(0, str(path))
        try:
            # The package itself imports much more than these kernels need: a bare one stands in for it.
            importlib.import_module(_VLLM_OPS.rpartition(".")[0])
            package = types.ModuleType(_VLLM_OPS)
            package.__path__ = [str(path / Path(*_VLLM_OPS.split(".")))]
            sys.modules[_VLLM_OPS] = package
            self._shrink = importlib.import_module(f"{_VLLM_OPS}.lora_shrink_op").lora_shrink
            self._expand = importlib.import_module(f"{_VLLM_OPS}.lora_expand_op").lora_expand
            self._meta = importlib.import_module(f"{_VLLM_OPS}.lora_kernel_metadata").LoRAKernelMeta
        except (ImportError, AttributeError) as error:
            raise LibraError(
                f"{path}: vLLM's LoRA kernels do not import from here ({error}); give --peer-vllm the directory that "
                "holds the package vllm 0.33, or leave it out"
            ) from error

    def runner(self, products: LoraProducts, group: int) -> Callable[[int], torch.Tensor]:
        """Weights in slots of the batch's rank, metadata made beforehand as vLLM does once per step."""
        batch, adapters, rank = products.size
        layers = []
        for layer in range(products.world.spec.num_layers):
            pairs = products.weights(group, layer)
            layers.append(([a for a, _ in pairs], [b.transpose(1, 2).contiguous() for _, b in pairs]))
        x, out = products.x[group], products.out[group]
        mapping = torch.arange(batch, device=x.device, dtype=torch.int32) % adapters
        meta = self._meta.make(adapters, batch, x.device)
        meta.prepare_tensors(mapping)
        arguments = meta.meta_args(batch, True)
        shrunk = x.new_empty(len(layers[0][0]), batch, rank, dtype=torch.float32)

        def run(turn: int) -> torch.Tensor:
            a, b = layers[turn]
            self._shrink(x, a, shrunk, *arguments, 1.0)
            self._expand(shrunk, b, out, *arguments, 0, True)
            return out

        return run


def _peft_cases(products: LoraProducts) -> Iterator[Case]:
    """The output projection with its base product, since peft computes both together, by peft and by libra."""
    layer = _PeftLayer(products)
    libra = products.libra(OUTPUT)
    x, out = products.x[OUTPUT], products.out[OUTPUT]
    size = x.shape[1] * out.shape[1]

    def libra_run(turn: int) -> torch.Tensor:
        out.copy_(F.linear(x, layer.base))
        return libra(turn)

    def reference() -> torch.Tensor:
        products.start[OUTPUT].copy_(F.linear(x, layer.base))
        return products.reference(OUTPUT)

    for name, run, capturable in (("libra with base", libra_run, True), ("peft with base", layer.run, False)):
        case = products.case(name, OUTPUT, run, capturable)
        moved = case.num_bytes + size * x.element_size()
        flops = case.flops + 2 * len(x) * size
        yield replace(case, reference=reference, num_bytes=moved, flops=flops, num_turns=1)


class _PeftLayer:
    """One linear layer with the batch's adapters, in peft's form for mixed batches."""

    def __init__(self, products: LoraProducts) -> None:
        from peft import LoraConfig, get_peft_model

        batch, adapters, rank = products.size
        x, out = products.x[OUTPUT], products.out[OUTPUT]
        self._x = x
        self._names = [f"a{token % adapters}" for token in range(batch)]
        self.base = torch.empty(out.shape[1], x.shape[1], dtype=x.dtype, device=x.device).normal_(std=0.02)
        network = torch.nn.Sequential()
        network.add_module("o_proj", torch.nn.Linear(x.shape[1], out.shape[1], bias=False))
        network.to(x)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["o_proj"])
        model: Any = get_peft_model(network, config, "a0", autocast_adapter_dtype=False)
        for index in range(1, adapters):
            model.add_adapter(f"a{index}", config, autocast_adapter_dtype=False)
        self._layer = model.base_model.model.o_proj.to(x).eval()
        ((a, b),) = products.weights(OUTPUT, 0)
        with torch.no_grad():
            self._layer.base_layer.weight.copy_(self.base)
            for index in range(adapters):
                self._layer.lora_A[f"a{index}"].weight.copy_(a[index])
                self._layer.lora_B[f"a{index}"].weight.copy_(b[index].T)

    @torch.inference_mode()
    def run(self, turn: int) -> torch.Tensor:
        output: torch.Tensor = self._layer(self._x, adapter_names=self._names)
        return output
