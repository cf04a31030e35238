"""An executor made of another one, which does its work."""

from collections.abc import Sequence

from libra.engine.executor import Executor, StepBatch, StepResult
from libra.spec import AdapterSpec


class WrappedExecutor(Executor):
    """All of ``real``, what it calls while a step is under way included; a subclass adds something to ``execute``."""

    def __init__(self, real: Executor) -> None:
        self._real = real
        self.while_busy = real.while_busy

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        self._real.while_busy = self.while_busy
        return self._real.execute(batch, max_steps, until_s)

    def prefill_seconds(self, num_tokens: int) -> float:
        return self._real.prefill_seconds(num_tokens)

    def step_seconds(self, adapters: Sequence[str | None], tokens_each: int) -> float:
        return self._real.step_seconds(adapters, tokens_each)

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._real.add_adapter(spec)

    def remove_adapter(self, adapter_id: str) -> None:
        self._real.remove_adapter(adapter_id)

    @property
    def fallback(self) -> str | None:
        return self._real.fallback

    def describe(self) -> str:
        return self._real.describe()
