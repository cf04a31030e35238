from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.micro.http_overhead import Side, Sides, compare, rows, summarise
from bench.micro.overhead_sides import Load, Measured

LOAD = Load(4, 3, 2, vocab_size=50, adapters=("a", "b"), seed=0, request_rate=10.0)


def test_both_sides_get_the_same_requests_on_one_server_and_take_turns_in_going_first() -> None:
    calls: list[tuple[str, int]] = []
    alive: list[int] = []

    def side(name: str, ttft_ms: float, tokens_per_s: float) -> Side:
        def measure(load: Load) -> Measured:
            assert len(alive) == 1
            calls.append((name, load.seed))
            ttfts = [ttft_ms] * load.num_requests, [4.0] * load.num_requests
            is_http = name == "http"
            return Measured(*ttfts, tokens_per_s, {"engine": 2.0, name: 0.25}, 66 if is_http else 60, 0.5 * is_http)

        return measure

    @contextmanager
    def start() -> Iterator[Sides]:
        alive.append(len(calls))
        yield side("http", 7.0, 90.0), side("alone", 5.0, 100.0)
        alive.pop()

    pairs, others = compare(start, (LOAD, replace(LOAD, seed=5)), rounds=3)
    assert len(pairs) == len(others) == 3
    # The warm-up, then both loads of each round.
    firsts = ["http", "http", "http", "alone", "alone", "http", "http"]
    assert [name for name, _ in calls[::2]] == firsts
    assert [seed for _, seed in calls[::2]] == [4, 0, 5, 10, 15, 20, 25]
    assert [seed for _, seed in calls[::2]] == [seed for _, seed in calls[1::2]]
    figures = summarise(pairs, pairs)
    assert figures["added_ttft_ms"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert figures["beyond_engine_ms"]["median"] == 3.0
    assert figures["send_lag_ms"]["median"] == 0.5
    assert figures["throughput_lost"]["median"] == 0.1
    assert figures["steps_added"]["median"] == 0.1
    written = rows("closed", pairs)
    assert [(row["round"], row["side"]) for row in written[:3]] == [(0, "http"), (0, "alone"), (1, "http")]
    assert written[0]["processor_ms_per_token"] == {"engine": 2.0, "http": 0.25}


def test_a_load_is_a_function_of_its_seed() -> None:
    assert LOAD.prompts() == LOAD.prompts()
    assert len(set(LOAD.prompts())) == 4
    assert LOAD.arrivals_s() == sorted(LOAD.arrivals_s())
    assert [LOAD.adapter(number) for number in range(3)] == ["a", "b", "a"]
