"""A server's metrics during a run: what a page becomes, and that no page and no dead process costs the run."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.cli import main
from bench.replay.http import parse_url
from bench.replay.scrape import Scraper, Timeline, at_intervals, read_page, scraping
from bench.saved_run import load_run
from tests.bench.replay.conftest import Start
from tests.bench.replay.stub_server import Behaviour

PAGE = """\
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.7
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.9
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="8",running_lora_adapters="a,b",waiting_lora_adapters=""} 1.7e9
vllm:lora_requests_info{max_lora="8",running_lora_adapters="a",waiting_lora_adapters="b"} 1.8e9
"""


def test_engines_of_one_server_are_added_up_and_their_shares_averaged() -> None:
    samples = read_page(PAGE)
    assert samples == {"vllm:kv_cache_usage_perc": pytest.approx(0.8), "vllm:num_requests_running": 5.0}


@pytest.mark.parametrize("damage", ['vllm:h_bucket{ e="1", ="a\\"b"} 3\n', "<html>", 'a{b="c', "a b"])
def test_a_damaged_page_is_a_value_error(damage: str) -> None:
    timeline = Timeline()
    with pytest.raises(ValueError):
        timeline.add(1.0, f"# TYPE vllm:h histogram\n{damage}")
    assert timeline.scraped().columns == {"time_s": []}


def test_pages_after_a_stall_keep_their_distance() -> None:
    now_s = [0.0]
    taken_s = []

    def wait(duration_s: float) -> bool:
        now_s[0] += duration_s
        return now_s[0] > 8.9

    for _ in at_intervals(1.0, wait, lambda: now_s[0]):
        taken_s.append(now_s[0])
        now_s[0] += 5.0 if len(taken_s) == 3 else 0.1
    assert taken_s == pytest.approx([0, 1, 2, 7, 8, 9])


def test_a_scraper_that_has_died_is_lost_and_nothing_else(start_stub: Start) -> None:
    address = parse_url(start_stub(Behaviour()).url)
    # Workers of another test's pool may be waiting for more to do.
    others = set(multiprocessing.active_children())
    with scraping(address, {}, 0.05) as scraper:
        (process,) = set(multiprocessing.active_children()) - others
        process.kill()
        process.join()
        scraped = scraper.stop()
    assert scraped.is_lost
    assert scraped.columns == {"time_s": []}


def test_a_scraper_that_dies_while_it_is_asked_is_lost() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    assert Scraper(ours).stop().is_lost


def test_a_scraper_brings_what_it_has(start_stub: Start) -> None:
    with scraping(parse_url(start_stub(Behaviour()).url), {}, 60.0) as scraper:
        time.sleep(0.05)
        scraped = scraper.stop()
    assert not scraped.is_lost
    assert len(scraped.columns["time_s"]) in (1, 2)
    assert scraped.num_failed == 0


def test_a_run_outlives_its_scraper(
    start_stub: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def dead(*_: object) -> Iterator[Scraper]:
        ours, theirs = multiprocessing.Pipe()
        theirs.close()
        yield Scraper(ours)

    monkeypatch.setattr("bench.replay.run.scraping", dead)
    load = ["--workload", "chatbot", "--num-loras", "4", "--duration", "0.5", "--request-rate", "20"]
    easy = ["--max-output-tokens", "4", "--max-send-lag", "5000", "--disable-tqdm"]
    with pytest.raises(SystemExit) as exit_info:
        main(["replay", "--url", start_stub(Behaviour()).url, *load, *easy, "--scrape", "--out", str(tmp_path / "run")])
    assert not exit_info.value.code
    assert "the scraper died" in capsys.readouterr().out
    assert load_run(tmp_path / "run").timeline().empty
