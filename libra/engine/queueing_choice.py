"""The queueing that a policy names."""

from libra.cache.manager import CacheManager
from libra.cache.memory import KV
from libra.engine.config import EngineConfig
from libra.engine.executor import Executor
from libra.engine.queueing import FirstComeFirstServed, Queueing
from libra.engine.queueing_multi import MultiQueue
from libra.engine.queueing_rank import RankAware
from libra.engine.queueing_ratio import ResponseRatio


def choose_queueing(config: EngineConfig, manager: CacheManager, executor: Executor) -> Queueing:
    """A new queueing for the manager's policy.

    Raises LibraError when rank_aware has no profile to fit its models to.
    """
    policy, memory = manager.policy, manager.memory

    def rank_of(adapter_id: str | None) -> int:
        return 0 if adapter_id is None else manager.adapters[adapter_id].rank

    def blocks_of(adapter_id: str | None) -> int:
        return int(memory.tree.host_size[manager.adapter_node(adapter_id)])

    if policy.scheduler == "rank_aware":
        return RankAware(executor, rank_of, list(manager.adapters), policy.max_pass_s, config.max_scan)
    if policy.scheduler == "response_ratio":
        return ResponseRatio(manager.blocks_to_compute, manager.missing_blocks, policy.max_pass_s, config.max_scan)
    if policy.scheduler == "multi_queue":
        total_tokens = memory.region(KV).num_blocks * config.block_tokens
        return MultiQueue(memory.clock, total_tokens, blocks_of, policy.max_pass_s, config.max_scan)
    return FirstComeFirstServed()
