"""A request inside the engine."""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from libra.engine.record import RequestRecord
from libra.request import Request
from libra.tokens import Tokens, adapter_seed, extend_block_hashes

# What a sampler draws where the logits are not finite, and what the request then fails with.
NO_TOKEN = -1
NOT_FINITE = "the model's output is not finite; look at the adapter's weights"


class SequenceState(Enum):
    WAITING = "waiting"
    LOADING = "loading"
    RUNNING = "running"
    FINISHED = "finished"
    REJECTED = "rejected"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and what ends an answer before its length limit.

    Temperature 0 is greedy; ``top_k`` 0 is no limit; ``seed`` None draws from the engine's generator. One of
    ``stop_token_ids`` ends the answer, and is part of it, once there are ``min_tokens`` tokens before it; until then
    none of them is drawn. ``logprobs``: how many likely tokens to tell for each position, None to tell nothing.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    logprobs: int | None = None


class TokenLogprobs(NamedTuple):
    """Natural log of the model's probability of the token that was chosen, and the most likely tokens with theirs,
    best first; at temperature 1 and before anything is cut off or forbidden."""

    chosen: float
    top: list[tuple[int, float]]


@dataclass(slots=True, eq=False)
class Sequence:
    """Mutable state of one request from arrival to history.

    ``tokens`` has room for prompt and output; the first ``num_tokens`` are known, the first ``num_computed`` of them
    have their KV in the blocks of ``block_table`` (token ``i`` in block ``i // block_tokens``). When
    ``recorded_output`` is given, its tokens are appended whatever the model says (a trace replay).

    ``max_tokens`` is prompt and output together: the longest this sequence gets. ``may_stop``: a stop token can end it
    earlier, which never happens in a replay.

    ``phase_start_s`` is when the current part of TTFT began, ``evict_wait_since_s`` when the wait for saves did,
    ``first_passed_s`` when another request was first admitted before this one.
    """

    request: Request
    tokens: Tokens
    block_tokens: int
    recorded_output: Tokens | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    state: SequenceState = SequenceState.WAITING

    num_prompt_tokens: int = field(init=False)
    max_tokens: int = field(init=False)
    may_stop: bool = field(init=False)
    num_tokens: int = field(init=False)
    num_computed: int = 0
    block_hashes: list[int] = field(default_factory=list)
    # What the cache manager keeps for an admitted sequence.
    block_table: list[int] = field(default_factory=list)
    adapter_blocks: list[int] = field(default_factory=list)
    adapter_generation: int = 0
    token_times: list[float] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    record: RequestRecord = field(init=False)
    phase_start_s: float = field(init=False)
    evict_wait_since_s: float | None = None
    first_passed_s: float | None = None

    def __post_init__(self) -> None:
        request = self.request
        self.num_prompt_tokens = self.num_tokens = request.num_prompt_tokens
        self.max_tokens = self.num_prompt_tokens + request.output_tokens
        self.may_stop = bool(self.sampling.stop_token_ids) and self.recorded_output is None
        if self.recorded_output is not None:
            self.tokens[self.num_tokens : self.max_tokens] = self.recorded_output
        self.phase_start_s = request.arrival_s
        self.record = RequestRecord(
            id=request.id,
            adapter=request.adapter,
            session=request.session,
            arrival_s=request.arrival_s,
            prompt_tokens=self.num_prompt_tokens,
            output_tokens=request.output_tokens,
            task=request.task,
        )

    @property
    def adapter_id(self) -> str | None:
        return self.request.adapter

    @property
    def num_output_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    def hashes(self, num_blocks: int) -> list[int]:
        """Labels of at least the first ``num_blocks`` full blocks; made on first use and kept."""
        if len(self.block_hashes) < num_blocks:
            seed = adapter_seed(self.request.adapter, self.request.cache_salt)
            extend_block_hashes(self.block_hashes, self.tokens, self.block_tokens, num_blocks, seed)
        return self.block_hashes

    @property
    def is_decoding(self) -> bool:
        """All known tokens but the last are computed and at least one has been generated."""
        return self.num_computed == self.num_tokens - 1 and self.num_tokens > self.num_prompt_tokens

    @property
    def is_complete(self) -> bool:
        """The length limit is reached, or the last token ends the answer."""
        return self.num_tokens == self.max_tokens or (self.may_stop and self.is_stopped)

    @property
    def is_stopped(self) -> bool:
        """The last generated token is one of the stop tokens."""
        if not self.may_stop or self.num_output_tokens <= self.sampling.min_tokens:
            return False
        return int(self.tokens[self.num_tokens - 1]) in self.sampling.stop_token_ids

    def append(self, token: int, count: int = 1) -> None:
        """Adds the next token: ``token``, unless a replay has the recorded one, or the next ``count``, in place."""
        if self.recorded_output is None:
            self.tokens[self.num_tokens] = token
        self.num_tokens += count
