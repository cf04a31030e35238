from bench.micro.replay_client import Load, measure
from bench.replay.settings import EventLoop


def test_every_request_and_token_of_a_light_load_is_counted() -> None:
    figures = measure(Load(request_rate=60, duration_s=2.0, num_tokens=4), 1, EventLoop.ASYNCIO, EventLoop.ASYNCIO)
    assert figures["requests_per_s"] is not None
    assert 40 < figures["requests_per_s"] < 90
    # Four tokens 20 ms apart: what is sent within the steady part is answered there, but for its last moments.
    assert figures["tokens_per_s"] is not None
    assert 150 < figures["tokens_per_s"] < 350
    assert figures["wrong_counts"] == 0
    assert not [name for name in figures if name.startswith("failed")]
    for side in ("sender", "stub"):
        spent_us = figures[f"{side}_processor_us_per_request"]
        assert spent_us is not None
        assert 10 < spent_us < 100_000


def test_a_load_is_a_function_of_its_seed() -> None:
    load = Load(100, 3.0, 5)
    assert load.requests() == load.requests()
    assert load.requests() != Load(100, 3.0, 5, seed=1).requests()
    assert len(load.requests()) == 300
