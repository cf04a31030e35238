"""S-LoRA: one pool for adapters and running KV, no history (arXiv 2311.03285; router/manager.py)."""

from libra.cache.policy import CachePolicy
from libra.cache.rankers import LeastRecentlyUsed

SLORA = CachePolicy(
    name="slora",
    summary="unified pool, history discarded, adapters kept only while used or queued, queue look-ahead prefetch",
    ranker=LeastRecentlyUsed(),
    history_kv="discard",
    idle_adapters="discard",
    host_kv_tier=False,
    prefetch="queue",
    # router/req_queue.py: a request enters only if everybody's remaining output fits, so nobody is ever preempted.
    admission="with_outputs",
)
