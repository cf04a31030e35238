"""Which steps a profile is measured on."""

from dataclasses import dataclass

KINDS = ("decode", "prefill", "mixed", "adapters")


@dataclass(frozen=True)
class DecodePoint:
    """One decoding sequence with so many tokens of context; ``adapter`` numbers its adapter, of rank ``rank``."""

    context: int
    adapter: int | None = None
    rank: int = 0


@dataclass(frozen=True)
class ChunkPoint:
    """The last ``tokens`` tokens of a prompt, behind ``prefix`` that have their KV."""

    tokens: int
    prefix: int = 0
    adapter: int | None = None
    rank: int = 0


@dataclass(frozen=True)
class StepPoint:
    """A step to measure: any mixture of decoding sequences and chunks. ``first_use``: of its adapters, since they were
    loaded."""

    decode: tuple[DecodePoint, ...] = ()
    prefill: tuple[ChunkPoint, ...] = ()
    first_use: bool = False

    @property
    def ranks(self) -> dict[int, int]:
        """The step's adapters: number -> rank."""
        parts: list[DecodePoint | ChunkPoint] = [*self.decode, *self.prefill]
        return {part.adapter: part.rank for part in parts if part.adapter is not None}

    @property
    def kind(self) -> str:
        """adapters where there are any, else decode, prefill or mixed."""
        if self.ranks:
            return "adapters"
        return "mixed" if self.decode and self.prefill else "decode" if self.decode else "prefill"

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence after the step."""
        contexts = [part.context + 1 for part in self.decode] + [part.prefix + part.tokens for part in self.prefill]
        return max(contexts)

    def describe(self) -> dict[str, int | str]:
        """The point as a row of a table."""
        ranks = sorted(set(self.ranks.values()))
        return {
            "kind": self.kind,
            "decode": len(self.decode),
            "context": sum(part.context for part in self.decode),
            "chunks": len(self.prefill),
            "prefill_tokens": sum(part.tokens for part in self.prefill),
            "prefix_tokens": sum(part.prefix for part in self.prefill),
            "adapters": len(self.ranks),
            "ranks": " ".join(map(str, ranks)),
            "first_use": self.first_use,
        }


@dataclass(frozen=True)
class PointScale:
    """How large the points of a device are. ``longest``: contexts beyond are extrapolated. ``counts`` and ``contexts``
    of decoding sequences; ``chunks`` tokens of a prompt, ``prefixed`` behind how many; ``mixtures`` of sequences with
    ``mixed_context`` and a chunk; ``ranks`` of adapters, ``adapter_counts`` sequences with as many, of
    ``adapter_context``, and ``adapter_chunks``."""

    longest: int
    counts: tuple[int, ...]
    contexts: tuple[int, ...]
    chunks: tuple[int, ...]
    prefixed: tuple[tuple[int, int], ...]
    mixtures: tuple[tuple[int, int], ...]
    mixed_context: int
    ranks: tuple[int, ...]
    adapter_counts: tuple[int, int]
    adapter_context: int
    adapter_chunks: tuple[int, ...]


CPU_SCALE = PointScale(
    longest=1024,
    counts=(1, 2, 4, 8, 16),
    contexts=(63, 511, 1007),
    # Lengths as prompts have them: the engine computes them rounded up.
    chunks=(8, 28, 60, 121, 249, 505, 1009),
    prefixed=((28, 256), (121, 256), (28, 768), (121, 768)),
    mixtures=((2, 28), (2, 121), (8, 28), (8, 121), (5, 249)),
    mixed_context=255,
    ranks=(8, 32),
    adapter_counts=(8, 4),
    adapter_context=255,
    adapter_chunks=(28, 121, 249),
)
GPU_SCALE = PointScale(
    longest=8192,
    counts=(1, 4, 16, 32, 64, 128),
    contexts=(255, 1023, 2047),
    chunks=(16, 64, 128, 256, 512, 1024, 2048),
    prefixed=((128, 1024), (512, 1024), (128, 4096), (512, 4096)),
    mixtures=((8, 128), (8, 512), (32, 128), (32, 512)),
    mixed_context=1023,
    ranks=(32, 64),
    adapter_counts=(32, 16),
    adapter_context=1023,
    adapter_chunks=(128, 512),
)


def step_points(scale: PointScale, longest: int) -> list[StepPoint]:
    """The grid, without what is longer than ``longest`` tokens: each coefficient moves in some of its points while the
    others stand still."""
    points = [*_base_points(scale), *_adapter_points(scale)]
    return [point for point in points if point.longest <= min(longest, scale.longest)]


def _base_points(scale: PointScale) -> list[StepPoint]:
    points = [_decode(count, context) for count in scale.counts for context in scale.contexts]
    points += [_prefill(tokens) for tokens in scale.chunks]
    points += [_prefill(tokens, prefix) for tokens, prefix in scale.prefixed]
    points += [StepPoint(prefill=(ChunkPoint(32),) * count) for count in (2, 4)]
    for count, tokens in scale.mixtures:
        points.append(StepPoint((DecodePoint(scale.mixed_context),) * count, (ChunkPoint(tokens),)))
    return points


def _adapter_points(scale: PointScale) -> list[StepPoint]:
    many, some, context = *scale.adapter_counts, scale.adapter_context
    points = []
    for rank in scale.ranks:
        points += [_decode(many, context, 1, rank), _decode(1, context, 1, rank)]
        points += [_decode(count, context, count, rank) for count in (2, some, many)]
        points += [StepPoint(prefill=(ChunkPoint(tokens, 0, 0, rank),)) for tokens in scale.adapter_chunks]
        points += [StepPoint(prefill=tuple(ChunkPoint(32, 0, number, rank) for number in range(4)))]
        points += [StepPoint(_decode(some, context, some, rank).decode, (ChunkPoint(64, 0, some, rank),))]
        points += [StepPoint(_decode(some, context, 1, rank).decode, (ChunkPoint(29, context, 0, rank),))]
        for count in (1, 4):
            chunks = tuple(ChunkPoint(32, 0, number, rank) for number in range(count))
            points += [StepPoint(prefill=chunks, first_use=True)]
    return points


def _decode(count: int, context: int, distinct: int = 0, rank: int = 0) -> StepPoint:
    adapters = [index % distinct if distinct else None for index in range(count)]
    return StepPoint(tuple(DecodePoint(context, adapter, rank) for adapter in adapters))


def _prefill(tokens: int, prefix: int = 0) -> StepPoint:
    return StepPoint(prefill=(ChunkPoint(tokens, prefix),))
