"""Models and devices by name."""

from libra.registry import Registry
from libra.spec.device import DeviceSpec
from libra.spec.model import ModelSpec

MODELS: Registry[ModelSpec] = Registry("model preset")
DEVICES: Registry[DeviceSpec] = Registry("device preset")

for _model in (
    ModelSpec("llama2-7b", 32, 4096, 32, 32, 128, 11008, 32000),
    ModelSpec("llama3-8b", 32, 4096, 32, 8, 128, 14336, 128256),
    # Llama-2-34B was never released: these are Code Llama 34B's shapes (48 layers, 64 heads, 8 KV heads).
    ModelSpec("llama2-34b", 48, 8192, 64, 8, 128, 22016, 32000, default_tensor_parallel=4),
    ModelSpec("llama3-70b", 80, 8192, 64, 8, 128, 28672, 128256, default_tensor_parallel=8),
):
    MODELS.add(_model.name, _model)

# Dense bf16 rates from NVIDIA's datasheets. PCIe: 64 GB/s per direction for gen 5 x16, 32 GB/s for gen 4 x16.
for _device in (
    DeviceSpec("h800", 80 * 10**9, 3.35e12, 989e12, 64e9, 200e9),
    DeviceSpec("h200", 141 * 10**9, 4.8e12, 989e12, 64e9, 450e9),
    DeviceSpec("a100-80g", 80 * 10**9, 2.039e12, 312e12, 32e9, 300e9),
    DeviceSpec("a10", 24 * 10**9, 600e9, 125e12, 32e9, 32e9),
):
    DEVICES.add(_device.name, _device)
