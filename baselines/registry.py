"""Policies by name, and from a user's file."""

import importlib.util
import sys
from pathlib import Path

from baselines.ablations import ABLATIONS
from baselines.arc import ARC
from baselines.caraserve import CARASERVE, CARASERVE_RANK_AWARE
from baselines.chameleon import CHAMELEON, CHAMELEON_FCFS
from baselines.clairvoyant import CLAIRVOYANT
from baselines.gdsf import GDSF
from baselines.halp import HALP
from baselines.hawkeye import HAWKEYE
from baselines.lfu import LFU
from baselines.lru import LRU
from baselines.order_only import ORDER_ONLY
from baselines.rrip import RRIP
from baselines.s3fifo import S3FIFO
from baselines.sglang import SGLANG
from baselines.slora import SLORA
from baselines.vllm import VLLM, VLLM_ASYNC, VLLM_OFFLOAD
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.libra_policy import LIBRA
from libra.cache.policy import CachePolicy
from libra.errors import LibraError
from libra.registry import Registry

SYSTEMS = (
    LIBRA,
    FASTLIBRA,
    VLLM,
    VLLM_ASYNC,
    VLLM_OFFLOAD,
    SGLANG,
    SLORA,
    CARASERVE,
    CARASERVE_RANK_AWARE,
    CHAMELEON,
    CHAMELEON_FCFS,
)
RANKINGS = (LRU, ORDER_ONLY, LFU, RRIP, HAWKEYE, HALP, GDSF, S3FIFO, ARC, CLAIRVOYANT)

POLICIES: Registry[CachePolicy] = Registry("policy")
for _policy in (*SYSTEMS, *RANKINGS, *ABLATIONS):
    POLICIES.add(_policy.name, _policy)


def find_policy(name: str) -> CachePolicy:
    """A policy by registered name, or by ``path/to/file.py:variable``.

    Raises LibraError on an unknown name, a file that cannot be run, or a variable that is no CachePolicy.
    """
    path, separator, variable = name.rpartition(":")
    if separator and path.endswith(".py"):
        return _load_policy(Path(path), variable)
    if name.endswith(".py"):
        raise LibraError(f"--policy {name}: name the policy in the file too, as in {name}:my_policy")
    return POLICIES[name]


def _load_policy(path: Path, variable: str) -> CachePolicy:
    if not path.is_file():
        raise LibraError(f"policy file {path} does not exist; give --policy path/to/file.py:name")
    spec = importlib.util.spec_from_file_location(f"user_policy {path.resolve()}", path)
    if spec is None or spec.loader is None:
        raise LibraError(f"policy file {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the annotations of the file's rankers
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise LibraError(f"policy file {path} fails on import: {type(error).__name__}: {error}") from error
    policy = getattr(module, variable, None)
    if not isinstance(policy, CachePolicy):
        found = [key for key, value in vars(module).items() if isinstance(value, CachePolicy)]
        raise LibraError(f"{path} has no CachePolicy named {variable!r}; it has: {', '.join(found) or 'none'}")
    return policy
