"""Chatbot: a model of a chat arena -> one adapter, multi-turn (the paper's LMSYS workload, HPCA version, III-B).

Published: the mean turns of a conversation and the mean tokens of a prompt and of a response, of LMSYS-Chat-1M and of
the 33,000 arena conversations that the paper uses (arXiv 2309.11998, table 1, Llama 2 tokens); answer lengths close to
exponential, and waits that concentrate around 100 s between the turns of a conversation (ServeGen, arXiv 2505.09999:
the latter of a reasoning model's users). Assumed: geometric turns, log-normal prompts and waits, and a system prompt of
256 tokens, since neither paper gives these.
"""

from dataclasses import replace

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

CHATBOT_33K = replace(
    CHATBOT,
    name="chatbot-33k",
    description="chatbot with the means of the paper's own data set, where few conversations have a second turn",
    mean_turns=1.2,
    user_tokens=LogNormal(mean=52.3, cv=1.5),
    answer_tokens=Exponential(mean=189.5),
)
