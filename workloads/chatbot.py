"""Chatbot: a model of a chat arena -> one adapter, multi-turn (the paper's LMSYS workload, HPCA version, section VI).

Published: 2.0 turns a conversation, 69.5 tokens a prompt and 214.5 a response on average (LMSYS-Chat-1M,
arXiv 2309.11998, table 1); answer lengths close to exponential, and about 100 s between turns (ServeGen,
arXiv 2505.09999). Assumed: geometric turns, log-normal prompts and waits, and a system prompt of 256 tokens, since
neither paper gives these shapes.
"""

from workloads.distributions import Exponential, LogNormal
from workloads.sessions import SessionConfig

CHATBOT = SessionConfig(
    name="chatbot",
    description="multi-turn chat, one model of an arena per adapter",
    mean_turns=2.0,
    turn_shape=1.0,
    prefix_tokens=256,
    user_tokens=LogNormal(mean=69.5, cv=1.5),
    answer_tokens=Exponential(mean=214.5),
    think_s=LogNormal(mean=100.0, cv=1.0),
)
