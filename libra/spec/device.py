"""Rates of an accelerator and of the links around it, from its datasheet."""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class DeviceSpec:
    """One GPU. Rates are peak per GPU and per direction; efficiencies belong to libra.engine.profile.

    ``link_bytes_per_s`` is host<->HBM, ``peer_bytes_per_s`` GPU<->GPU for tensor parallelism.
    """

    name: str
    hbm_bytes: int
    hbm_bytes_per_s: float
    flops_per_s: float
    link_bytes_per_s: float
    peer_bytes_per_s: float
    link_latency_s: float = 10e-6
    disk_bytes_per_s: float = 3e9
    disk_latency_s: float = 100e-6
