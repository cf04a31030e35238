"""ServeGen's clients: counts, gaps, lengths, and the same as an arrival process for generators."""

import json
from pathlib import Path

import numpy as np
import pytest

from libra.errors import LibraError
from tests.workloads.services import FOLDER
from workloads.formats import ReadOptions
from workloads.registry import FORMATS
from workloads.seeds import generator
from workloads.servegen import ServeGenClients, read_clients, sample_events
from workloads.servegen_lengths import Lengths, LengthTable, pooled

PLENTY = 1 << 30


def write_client(folder: Path, number: int, counts: list[int], kind: str = "Gamma", shape: float = 1.0) -> None:
    rows = [
        f"{600 * window},{count / 600!r},1.0,{kind if count else ''},{shape if count else 0},{0.1 if count else 0}\n"
        for window, count in enumerate(counts)
    ]
    (folder / f"chunk-{number}-trace.csv").write_text("".join(rows))
    tokens = f"{{{10 + number}: 0.25, {20 + number}: 0.75}}"
    table = {"0": {"input_tokens": tokens, "output_tokens": "{5: 1.0}"}}
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(table))


def test_clients_are_ranked_by_requests(tmp_path: Path) -> None:
    write_client(tmp_path, 4, [10, 0, 5])
    write_client(tmp_path, 9, [0, 100, 0], "Weibull", 0.3)
    clients = read_clients([tmp_path], PLENTY)
    assert clients.names == ("client-9", "client-4")
    assert clients.counts.tolist() == [[0, 100, 0], [10, 0, 5]]
    assert clients.shapes[0, 1] == -0.3
    assert clients.part(0.0, 600.0).names == ("client-4", "client-9")


@pytest.mark.parametrize(("kind", "shape"), [("Gamma", 0.2), ("Gamma", 3.0), ("Weibull", 0.2), ("Weibull", 2.0)])
def test_scale_one_keeps_every_count(tmp_path: Path, kind: str, shape: float) -> None:
    write_client(tmp_path, 0, [40, 0, 7], kind, shape)
    write_client(tmp_path, 1, [3, 90, 0], kind, shape)
    clients = read_clients([tmp_path], PLENTY)
    events = sample_events(clients, generator(1, "x"), 1.0)
    assert np.all(np.diff(events.times) >= 0)
    found = np.zeros((2, 3), dtype=int)
    np.add.at(found, (events.clients, (events.times // 600).astype(int)), 1)
    assert found.tolist() == clients.counts.tolist()


def test_gaps_have_the_fitted_burstiness(tmp_path: Path) -> None:
    """The CV of Gamma gaps is shape ** -0.5."""
    for shape, cv in ((0.25, 2.0), (1.0, 1.0), (4.0, 0.5)):
        write_client(tmp_path, 0, [60_000], "Gamma", shape)
        gaps = np.diff(sample_events(read_clients([tmp_path], PLENTY), generator(2, "x"), 1.0).times)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_lengths_follow_the_published_shares_and_periods() -> None:
    low, high = Lengths(np.array([10]), np.array([1.0])), Lengths(np.array([100, 200]), np.array([0.25, 1.0]))
    table = LengthTable(np.array([0.0, 600.0]), (low, high), (low, low))
    prompts, outputs = table.sample(generator(0, "x"), np.concatenate((np.full(100, 599.0), np.full(4000, 600.0))))
    assert set(prompts[:100].tolist()) == {10}
    assert np.mean(prompts[100:] == 100) == pytest.approx(0.25, abs=0.03)
    assert set(outputs.tolist()) == {10}


def constant(start_s: float, value: int) -> LengthTable:
    lengths = (Lengths(np.array([value]), np.array([1.0])),)
    return LengthTable(np.array([start_s]), lengths, lengths)


def test_a_pool_weighs_its_clients() -> None:
    pool = pooled([(constant(0.0, 10), 1.0), (constant(600.0, 20), 3.0)])
    assert pool.starts_s.tolist() == [0.0, 600.0]
    assert pool.prompts[1].values.tolist() == [10, 20]
    assert pool.prompts[1].cumulated.tolist() == [1.0, 4.0]


def test_clients_without_a_dataset_take_the_others_lengths() -> None:
    trace = FORMATS["servegen"].read([FOLDER / "servegen"], ReadOptions())
    lengths = {request.num_prompt_tokens for request in trace.requests if request.adapter == "client-1"}
    assert lengths <= {60, 61}
    assert trace.header.counts == {"requests_with_pooled_lengths": 2}
    assert "22% of requests are of clients without a dataset file" in trace.header.warnings[0]


def test_the_rate_scales_all_clients(tmp_path: Path) -> None:
    write_client(tmp_path, 0, [3000, 3000])
    write_client(tmp_path, 1, [600, 600])
    trace = FORMATS["servegen"].read([tmp_path], ReadOptions(request_rate=2.0, start_s=300.0, span_s=600.0))
    assert trace.header.duration_s == 600
    assert trace.request_rate == pytest.approx(2, rel=0.1)
    share = np.mean([request.adapter == "client-0" for request in trace.requests])
    assert share == pytest.approx(3000 / 3600, abs=0.04)
    assert all(0 <= request.arrival_s < 600 for request in trace.requests)


def test_outputs_and_prompts_are_their_own(tmp_path: Path) -> None:
    write_client(tmp_path, 0, [50])
    write_client(tmp_path, 1, [50])
    trace = FORMATS["servegen"].read([tmp_path], ReadOptions())
    for request in trace.requests:
        number = int(str(request.adapter)[-1])
        assert request.num_prompt_tokens in (10 + number, 20 + number)
        assert request.output_tokens == 5


def test_clients_as_an_arrival_process(tmp_path: Path) -> None:
    write_client(tmp_path, 0, [60] * 6)
    write_client(tmp_path, 1, [600] * 6)
    write_client(tmp_path, 2, [6] * 6)
    process = ServeGenClients(tmp_path, start_s=1000.0)
    arrivals = process.sample(generator(0, "a"), 4.0, -700.0, 1800.0, 2)
    assert arrivals.adapters is not None
    assert -700 <= arrivals.times[0] <= arrivals.times[-1] < 1800
    assert np.count_nonzero(arrivals.times >= 0) == pytest.approx(4 * 1800, rel=0.05)
    assert np.mean(arrivals.adapters == 0) == pytest.approx(10 / 11, abs=0.02)
    assert set(arrivals.adapters.tolist()) == {0, 1}
    assert arrivals.parameters["client_names"] == ["client-1", "client-0"]
    for count, message in ((4, "3 clients send requests in this part"), (2, "are known from 0 s to 3600 s")):
        with pytest.raises(LibraError, match=message):
            process.sample(generator(0, "a"), 4.0, -700.0, 1800.0 if count == 4 else 9000.0, count)


def test_what_is_no_folder_of_clients(tmp_path: Path) -> None:
    (tmp_path / "chunk-x-trace.csv").write_text("0,0,0,,0,0\n")
    with pytest.raises(LibraError, match=r"files are called chunk-N-trace\.csv"):
        read_clients([tmp_path], PLENTY)
    other = tmp_path / "other"
    other.mkdir()
    write_client(other, 1, [0])
    with pytest.raises(LibraError, match="chunk 1 comes twice"):
        read_clients([other, other], PLENTY)
