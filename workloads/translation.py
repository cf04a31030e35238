"""Translation: a language pair -> one adapter, single turn behind the pair's shared instruction (the paper's OPUS-100
workload, HPCA version, section III-B).

Assumed, since the paper publishes no lengths: sentences of 32 tokens on average, an answer of about the same length,
and an instruction of 128 tokens with examples for the pair.
"""

from workloads.distributions import LogNormal
from workloads.sessions import SessionConfig

TRANSLATION = SessionConfig(
    name="translation",
    description="single sentences, one language pair per adapter",
    mean_turns=1.0,
    turn_shape=1.0,
    prefix_tokens=128,
    user_tokens=LogNormal(mean=32.0, cv=0.8),
    answer_tokens=LogNormal(mean=36.0, cv=0.8),
    think_s=LogNormal(mean=1.0, cv=1.0),
)
