"""Azure Functions minute counts: reading, ranking, scaling, and placement inside the minute."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from libra.errors import LibraError
from tests.workloads.builders import write_function_counts
from workloads.azure_functions import AzureFunctions, read_function_counts
from workloads.demand import Demand
from workloads.processes import parse_arrivals
from workloads.registry import WORKLOADS

COUNTS = [[1, 0, 2], [9, 0, 3], [4, 4, 4], [0, 0, 0]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_function_counts(tmp_path / "functions.csv", COUNTS)


def test_the_busiest_functions_come_first_and_ties_keep_the_order(path: Path) -> None:
    assert read_function_counts(path, 2).counts.tolist() == [[9, 0, 3], [4, 4, 4]]
    assert read_function_counts(path, 4).counts.tolist() == [[9, 0, 3], [4, 4, 4], [1, 0, 2], [0, 0, 0]]


def test_original_column_names_read_too(path: Path) -> None:
    path.write_text("HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,5,6\n")
    assert read_function_counts(path, 1).counts.tolist() == [[5, 6]]


@pytest.mark.parametrize("burstiness", [0.2, 1.0, float("inf")])
def test_scale_one_gives_the_recorded_counts(path: Path, burstiness: float) -> None:
    # The two busiest functions have 24 invocations in the file's 180 s.
    process = AzureFunctions(path, burstiness)
    arrivals = process.sample(np.random.default_rng(0), 24 / 180, 0.0, 180.0, 2)
    assert arrivals.adapters is not None
    assert arrivals.parameters["count_scale"] == 1.0
    assert np.all(np.diff(arrivals.times) >= 0)
    for function, expected in enumerate([[9, 0, 3], [4, 4, 4]]):
        minutes = (arrivals.times[arrivals.adapters == function] // 60).astype(int)
        assert np.bincount(minutes, minlength=3).tolist() == expected


@pytest.mark.parametrize("scale", [0.4, 2.5])
def test_scaling_keeps_the_pattern(tmp_path: Path, scale: float) -> None:
    counts = np.random.default_rng(0).poisson(200, (4, 30)) * np.array([[8], [4], [2], [1]])
    process = AzureFunctions(write_function_counts(tmp_path / "f.csv", counts.tolist()))
    arrivals = process.sample(np.random.default_rng(1), scale * counts.sum() / 1800, 0.0, 1800.0, 4)
    found = np.histogram2d(arrivals.adapters, arrivals.times // 60, bins=(range(5), range(31)))[0]
    assert found.sum() == pytest.approx(scale * counts.sum(), rel=0.02)
    assert np.corrcoef(found.ravel(), counts.ravel())[0, 1] > 0.99


def test_burstiness_moves_events_inside_the_minute_only(tmp_path: Path) -> None:
    path = write_function_counts(tmp_path / "f.csv", [[60] * 50])

    def gap_cv(burstiness: float) -> float:
        times = AzureFunctions(path, burstiness).sample(np.random.default_rng(0), 1.0, 0.0, 3000.0, 1).times
        return float(np.diff(times).std() / np.diff(times).mean())

    assert gap_cv(0.1) > 2 > 1.1 > gap_cv(1.0) > 0.9 > gap_cv(float("inf"))


def test_sessions_start_before_time_zero_inside_the_file(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(60, (20, 120)).tolist()
    path = write_function_counts(tmp_path / "f.csv", counts)
    trace = WORKLOADS["chatbot"].generate(
        Demand(num_adapters=20, duration_s=1800, request_rate=20, arrivals=f"azure-functions:{path}@3")
    )
    assert trace.request_rate == pytest.approx(20, rel=0.05)
    assert trace.header.provenance.adapter_source == trace.header.provenance.arrival_source == "mapped"
    assert trace.header.parameters["start_minute"] == 3
    assert trace.header.parameters["function_counts"] == "f.csv"
    assert str(tmp_path) not in str(trace.header)


def test_traps_reach_the_header(tmp_path: Path) -> None:
    path = write_function_counts(tmp_path / "f.csv", [[14, 28, 42, 14, 0, 14], [28, 14, 0, 28, 42, 28]])
    demand = Demand(num_adapters=2, duration_s=300, request_rate=1, arrivals=f"azure-functions:{path}")
    warnings = WORKLOADS["translation"].generate(demand).header.warnings
    assert len(warnings) == 2
    assert "same count (42)" in warnings[0]
    assert "divisible by 14" in warnings[1]


def test_popularity_beside_native_adapters_is_refused(path: Path) -> None:
    demand = Demand(num_adapters=2, duration_s=60, arrivals=f"azure-functions:{path}", popularity="uniform")
    with pytest.raises(LibraError, match="leave out --popularity"):
        WORKLOADS["translation"].generate(demand)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1: needs a column 'HashFunction'"),
        ("HashFunction,HashApp\nf,a\n", "row 1: needs a column 'HashFunction' and minute columns"),
        ("HashFunction,1,2\nf,1,2\ng,1\n", "row 3: has 2 columns where the header has 3; is the file cut short?"),
        ("HashFunction,1,2\nf,1,-2\n", "row 2, column '2': '-2' is not a count of 0 or more"),
        ("HashFunction,1,2\nf,1.5,2\n", "row 2, column '1': '1.5' is not a count"),
        ("HashFunction,1,2\nf,nan,2\n", "row 2, column '1': 'nan' is not a count"),
        ("HashFunction,1,2\nf,1,2\n", "has 1 functions; use --num-loras 1 or less"),
    ],
)
def test_bad_files(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(LibraError) as raised:
        read_function_counts(path, 2)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "functions.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("HashFunction,1,2\n" + "f,1,2\n" * 20_000)
    with pytest.raises(LibraError, match=r"larger than .* after decompression"):
        read_function_counts(path, 2, max_bytes=1 << 16)
    with pytest.raises(LibraError, match="is a folder"):
        read_function_counts(tmp_path, 2)


def test_a_compressed_file_reads_as_the_plain_one(path: Path) -> None:
    packed = path.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_function_counts(packed, 4).counts.tolist() == read_function_counts(path, 4).counts.tolist()
    assert read_function_counts(path, 4).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_longer_than_the_file(path: Path) -> None:
    with pytest.raises(LibraError, match=r"holds 3 minutes but the run.* needs 4 from minute 1"):
        parse_arrivals(f"azure-functions:{path}").sample(np.random.default_rng(0), 1.0, 0.0, 200.0, 2)
    with pytest.raises(LibraError, match="not invoked in the run's minutes"):
        parse_arrivals(f"azure-functions:{path}@2").sample(np.random.default_rng(0), 1.0, 0.0, 60.0, 1)
