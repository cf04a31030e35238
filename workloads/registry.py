"""Workload generators and readers of published traces, by name."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from libra.errors import LibraError
from libra.registry import Registry
from workloads.agent_graph import AGENT_GRAPH
from workloads.agents import AGENTS
from workloads.azure_functions_reader import AzureFunctionsReader
from workloads.azure_llm import AzureLLMReader
from workloads.burstgpt import BurstGPTReader
from workloads.chatbot import CHATBOT, CHATBOT_33K
from workloads.demand import Demand
from workloads.formats import TraceReader
from workloads.graphs.model_file import read_model
from workloads.kv_cache_tester import KVCacheTesterReader
from workloads.lmcache_agent import LMCacheAgentReader
from workloads.lmsys import LMSYS
from workloads.mooncake import MooncakeReader
from workloads.multidogo import MULTIDOGO
from workloads.openai_log import OpenAILogReader
from workloads.opus import OPUS
from workloads.qwen_bailian import QwenBailianReader
from workloads.scale import SCALE
from workloads.servegen_reader import ServeGenReader
from workloads.sgd import SGD
from workloads.taskmaster import TASKMASTER
from workloads.trace import Trace
from workloads.translation import TRANSLATION


class Workload(Protocol):
    """A named scenario that makes traces."""

    @property
    def name(self) -> str:
        """The name the command line knows it by."""

    @property
    def description(self) -> str:
        """One line for a list of choices."""

    @property
    def num_adapters(self) -> int | None:
        """How many adapters a command asks for where the user names no number; None is the command's own default."""

    def generate(self, demand: Demand) -> Trace:
        """A trace for ``demand``. Equal demands give equal traces, in any process. Raises LibraError."""


WORKLOADS: Registry[Workload] = Registry("workload")

for _workload in (CHATBOT, CHATBOT_33K, TRANSLATION, AGENTS, AGENT_GRAPH, SCALE):
    WORKLOADS.add(_workload.name, _workload)


def find_workload(spec: str) -> Workload:
    """The workload of a name, or of ``agent-graph:FILE`` with a model that `libra workload graph` made.

    Raises LibraError for an unknown name and a file that is no such model.
    """
    name, colon, file = spec.partition(":")
    workload = WORKLOADS[name]
    if not colon:
        return workload
    if name != AGENT_GRAPH.name:
        raise LibraError(f"workload {spec!r}: {name} takes no file; write {name}")
    return replace(AGENT_GRAPH, model=read_model(Path(file)))


FORMATS: Registry[TraceReader] = Registry("trace format")

for _reader in (
    MooncakeReader(),
    AzureLLMReader(),
    AzureFunctionsReader(),
    BurstGPTReader(),
    ServeGenReader(),
    QwenBailianReader(),
    KVCacheTesterReader(),
    LMCacheAgentReader(),
    OpenAILogReader(),
    TASKMASTER,
    MULTIDOGO,
    SGD,
    LMSYS,
    OPUS,
):
    FORMATS.add(_reader.name, _reader)
