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
    """A step to measure: any mixture of decoding sequences and chunks."""

    decode: tuple[DecodePoint, ...] = ()
    prefill: tuple[ChunkPoint, ...] = ()

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
        }


def step_points(longest: int, ranks: tuple[int, ...]) -> list[StepPoint]:
    """The grid, without what is longer than ``longest`` tokens: each coefficient moves in some of its points while the
    others stand still."""
    points = [*_base_points(), *_adapter_points(ranks)]
    return [point for point in points if point.longest <= longest]


def _base_points() -> list[StepPoint]:
    points = [_decode(count, context) for count in (1, 2, 4, 8, 16) for context in (63, 511)]
    points += [_prefill(tokens) for tokens in (8, 32, 64, 128, 256, 512)]
    points += [_prefill(tokens, prefix) for tokens, prefix in ((32, 256), (128, 256), (32, 768), (128, 768))]
    points += [StepPoint(prefill=(ChunkPoint(32),) * count) for count in (2, 4)]
    mixtures = ((2, 32), (2, 128), (8, 32), (8, 128))
    points += [StepPoint((DecodePoint(255),) * count, (ChunkPoint(tokens),)) for count, tokens in mixtures]
    return points


def _adapter_points(ranks: tuple[int, ...]) -> list[StepPoint]:
    points = []
    for rank in ranks:
        points += [_decode(8, 63, 1, rank), _decode(8, 63, 8, rank), _decode(1, 63, 1, rank)]
        points += [StepPoint(prefill=(ChunkPoint(tokens, 0, 0, rank),)) for tokens in (32, 128)]
        points += [StepPoint(prefill=tuple(ChunkPoint(32, 0, number, rank) for number in range(4)))]
        points += [StepPoint(_decode(4, 63, 4, rank).decode, (ChunkPoint(64, 0, 4, rank),))]
    return points


def _decode(count: int, context: int, distinct: int = 0, rank: int = 0) -> StepPoint:
    adapters = [index % distinct if distinct else None for index in range(count)]
    return StepPoint(tuple(DecodePoint(context, adapter, rank) for adapter in adapters))


def _prefill(tokens: int, prefix: int = 0) -> StepPoint:
    return StepPoint(prefill=(ChunkPoint(tokens, prefix),))
