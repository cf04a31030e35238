"""Agents: a task scene -> one adapter, long sessions of short utterances behind the scene's tool schemas (the paper's
Taskmaster workload, HPCA version, section III-B).

Published: Taskmaster-1 has 169,469 utterances in 7,708 self-dialogs and 132,407 in 5,507 two-person dialogs
(arXiv 1909.05358), so 11.0 and 12.0 user turns on average where half of the utterances are the user's; ours is midway.
Measured on 2,000 dialogs of Taskmaster-4: 6.8 words a user utterance with a CV of 0.69, and 12.4 an answer with a CV of
0.46. Assumed: 1.3 tokens a word, the spread of the turns, 15 s between an answer and the next utterance, and 1,024
tokens of tool schemas per scene.
"""

from workloads.distributions import LogNormal
from workloads.sessions import SessionConfig

AGENTS = SessionConfig(
    name="agents",
    description="many short turns, one task scene with its tools per adapter",
    mean_turns=11.5,
    turn_shape=4.0,
    prefix_tokens=1024,
    user_tokens=LogNormal(mean=9.0, cv=0.7),
    answer_tokens=LogNormal(mean=16.0, cv=0.5),
    think_s=LogNormal(mean=15.0, cv=1.0),
)
