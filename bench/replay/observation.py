"""What the load generator saw of each request: its record, as `libra bench` keeps it, and the client's own facts."""

from dataclasses import dataclass

from bench.replay.answer import Answer
from bench.replay.faults import FaultKind
from bench.replay.server_info import ServerTimes
from libra.engine.record import RequestRecord
from libra.request import Request


@dataclass(slots=True)
class Observation:
    """One request. Times are seconds from the start of the run; None where the request never got there.

    ``send_lag_s`` is the generator's own delay up to the first attempt, ``slot_wait_s`` the wait for a free slot under
    --max-concurrency. An attempt begins with opening a connection where none is idle, as every client's does. Both are
    inside the record's latencies, which count from the scheduled arrival. ``sent_s`` is when the last attempt
    began. ``faults`` has the label of every attempt that failed. The ``told_`` counts are the server's.
    """

    record: RequestRecord
    model: str
    asked_output_tokens: int
    send_lag_s: float | None = None
    slot_wait_s: float = 0.0
    sent_s: float | None = None
    attempts: int = 0
    faults: tuple[str, ...] = ()
    streamed_tokens: int = 0
    silent_events: int = 0
    has_token_ids: bool = False
    told_prompt_tokens: int | None = None
    told_completion_tokens: int | None = None
    told_cached_tokens: int | None = None
    server_times: ServerTimes | None = None

    @property
    def first_sent_s(self) -> float | None:
        """When the first attempt began."""
        return None if self.send_lag_s is None else self.record.arrival_s + self.send_lag_s + self.slot_wait_s

    @property
    def finished(self) -> bool:
        return self.record.status == "finished"


def scheduled(request: Request, model: str) -> Observation:
    """The observation of a request that nothing has happened to yet."""
    record = RequestRecord(
        id=request.id,
        adapter=request.adapter,
        session=request.session,
        arrival_s=request.arrival_s,
        prompt_tokens=request.num_prompt_tokens,
        output_tokens=request.output_tokens,
        task=request.task,
    )
    return Observation(record, model, request.output_tokens)


def take_in(observation: Observation, answer: Answer, start_s: float, *, exact_prompt: bool) -> None:
    """Enters the last attempt's answer; ``start_s`` is the start of the run on the answer's clock.

    Where prompts are text (not ``exact_prompt``) their length is what the server counted. Mutates ``observation``.
    """
    record = observation.record
    observation.streamed_tokens = answer.streamed_tokens
    observation.silent_events = answer.silent_events
    observation.has_token_ids = answer.has_token_ids
    observation.told_prompt_tokens = answer.prompt_tokens
    observation.told_completion_tokens = answer.completion_tokens
    observation.told_cached_tokens = answer.cached_tokens
    observation.server_times = answer.server_times
    record.token_times = [time_s - start_s for time_s in answer.token_times]
    record.output_tokens = answer.output_tokens
    record.hbm_hit_tokens = answer.cached_tokens or 0
    if not exact_prompt and answer.prompt_tokens is not None:
        record.prompt_tokens = answer.prompt_tokens
    if record.token_times:
        record.first_token_s = record.token_times[0]
        if answer.server_times is not None:
            _join(record, answer.server_times, record.first_token_s)
    if answer.fault is None:
        record.status, record.finish_s = "finished", record.token_times[-1]
        return
    record.reason = str(answer.fault)
    if answer.fault.kind is FaultKind.INTERRUPTED:
        record.status = "unfinished"
    else:
        record.status = "rejected" if answer.fault.is_refusal else "aborted"


def _join(record: RequestRecord, times: ServerTimes, first_token_s: float) -> None:
    """Splits the client's TTFT by what the server says: its queue takes in the wire and the wait before sending, so
    that the parts add up."""
    record.evict_wait_s, record.adapter_load_s = times.evict_wait_s, times.adapter_load_s
    record.kv_load_s, record.prefill_s = times.kv_load_s, times.prefill_s
    after_queue_s = times.adapter_load_s + times.kv_load_s + times.prefill_s
    record.queue_s = max(first_token_s - record.arrival_s - after_queue_s, 0.0)
    record.admitted_s = record.arrival_s + record.queue_s
    record.adapter_tier, record.preemptions = times.adapter_tier, times.preemptions
    if times.hbm_hit_tokens is not None:
        record.hbm_hit_tokens, record.host_hit_tokens = times.hbm_hit_tokens, times.host_hit_tokens or 0
