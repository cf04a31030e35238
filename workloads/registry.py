"""Workload generators and readers of published traces, by name."""

from typing import Protocol

from libra.registry import Registry
from workloads.agents import AGENTS
from workloads.chatbot import CHATBOT
from workloads.demand import Demand
from workloads.formats import TraceReader
from workloads.mooncake import MooncakeReader
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

    def generate(self, demand: Demand) -> Trace:
        """A trace for ``demand``. Equal demands give equal traces, in any process. Raises LibraError."""


WORKLOADS: Registry[Workload] = Registry("workload")

for _workload in (CHATBOT, TRANSLATION, AGENTS):
    WORKLOADS.add(_workload.name, _workload)

FORMATS: Registry[TraceReader] = Registry("trace format")

FORMATS.add("mooncake", MooncakeReader())
