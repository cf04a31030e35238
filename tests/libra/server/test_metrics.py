"""What the server tells of itself: metrics under the names others read, a dashboard, a log that can be replayed."""

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from bench.replay.scrape import COUNTER_NAMES, TIMELINE_NAMES, read_page
from bench.replay.server_info import server_times
from libra.server.app import _FILES
from tests.libra.server.running import BASE, Running, engine_settings, running, settings
from tests.tiny_models import TinyModel
from workloads.formats import ReadOptions
from workloads.openai_log import OpenAILogReader


def scraped(server: Running) -> dict[str, float]:
    return read_page(server.get("/metrics").body.decode())


def test_metrics_have_the_names_that_are_scraped(served: Running) -> None:
    page = scraped(served)
    assert {*TIMELINE_NAMES, *COUNTER_NAMES} <= set(page)
    text = served.get("/metrics").body.decode()
    for name in (
        "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total",
        "vllm:time_to_first_token_seconds_bucket", "vllm:request_queue_time_seconds_count", "vllm:lora_requests_info",
        "vllm:inter_token_latency_seconds_sum", "vllm:e2e_request_latency_seconds_sum",
        "vllm:request_time_per_output_token_seconds_bucket",
    ):  # fmt: skip
        assert re.search(rf'^{name}{{.*model_name="{BASE}".*}} ', text, re.MULTILINE), name


def test_metrics_count_what_happens(served: Running) -> None:
    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    before = scraped(served)
    prompt = [21] * 33
    for _ in range(2):
        served.complete(model="adapter-01", prompt=prompt, max_tokens=5, ignore_eos=True)
    served.complete(model="no such model")
    after = scraped(served)
    assert grown("vllm:prompt_tokens_total") == 66
    assert grown("vllm:generation_tokens_total") == 10
    assert grown("vllm:prefix_cache_queries_total") == 66
    assert grown("vllm:prefix_cache_hits_total") == 32
    assert grown("vllm:request_success_total{finished_reason=length}") == 2
    assert grown("vllm:time_to_first_token_seconds_count") == 2
    assert grown("vllm:inter_token_latency_seconds_count") == 8
    assert grown("vllm:request_time_per_output_token_seconds_count") == 2
    between_s = grown("vllm:inter_token_latency_seconds_sum")
    assert grown("vllm:request_time_per_output_token_seconds_sum") == pytest.approx(between_s / 4)
    assert grown("libra:refused_requests_total{status=404}") == 1
    parts = sum(
        grown(f"libra:ttft_part_seconds_sum{{part={p}}}") for p in ("queue", "adapter_load", "kv_load", "prefill")
    )
    assert parts == pytest.approx(grown("vllm:time_to_first_token_seconds_sum"))


def test_blocks_and_adapters_add_up(served: Running) -> None:
    page = scraped(served)
    uses = ("adapter", "history", "running", "in_flight", "free")
    assert sum(page[f"libra:hbm_blocks{{use={use}}}"] for use in uses) == page["libra:hbm_total_blocks"] == 160
    tiers = ("hbm", "loading", "host", "disk")
    assert sum(page[f"libra:adapters_resident{{tier={tier}}}"] for tier in tiers) == 5


def test_usage_tells_the_replay_client_where_the_time_went(served: Running) -> None:
    told = server_times(served.complete(model="adapter-02").json["usage"])
    assert told is not None
    assert told.adapter_tier in ("hbm", "host", "loading", "disk")
    assert told.prefill_s > 0.0


def test_stats_feed_the_dashboard(served: Running) -> None:
    served.complete(model="adapter-00")
    stats = served.get("/stats").json
    lengths = {len(values) for values in stats["history"].values()}
    assert len(lengths) == 1
    assert set(stats["adapters"]) == {f"adapter-{n:02d}" for n in range(5)}
    assert any(
        row["requests"] and set(row["parts"]) == {"queue", "adapter_load", "kv_load", "prefill"}
        for row in stats["ttft"]
    )


def test_the_dashboard_asks_nobody_else(served: Running) -> None:
    """Files are served as what they are; nothing in them leads to another host."""
    for path, (_, content_type) in _FILES.items():
        reply = served.get(path)
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith(content_type)
        text = reply.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), path


@pytest.mark.slow
def test_a_browser_draws_the_dashboard(served: Running) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    served.complete(model="adapter-00")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
    page = subprocess.run([*command, served.url], capture_output=True, text=True, timeout=60, check=True).stdout
    assert page.count("<polygon") == 4, "HBM by use"
    assert page.count("<polyline") == 2, "requests"
    assert "adapter-00" in page
    assert "0 running, 0 waiting" in page


def test_the_log_can_be_replayed_and_holds_no_text(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with running(settings(request_log=path), engine_settings(tiny_model)) as server:
        secret = "the secret word is xylophone " * 3
        for adapter in ("adapter-01", BASE):
            server.ask(
                "POST", "/v1/completions", {"model": adapter, "prompt": secret, "max_tokens": 3, "ignore_eos": True},
                {"X-Session-Affinity": "alice"},
            )  # fmt: skip
        server.complete(prompt=secret + "more", n=2, user="bob")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["adapter"] for line in lines] == ["adapter-01", None, None, None]
    assert "xylophone" not in path.read_text()
    assert "alice" not in path.read_text()
    assert lines[0]["session"] == lines[1]["session"] != lines[2]["session"]
    assert (
        lines[0]["prefix_hashes"]
        == lines[1]["prefix_hashes"]
        == lines[2]["prefix_hashes"][: len(lines[0]["prefix_hashes"])]
    )
    assert lines[0]["output_tokens"] == 3
    trace = OpenAILogReader().read([path], ReadOptions())
    assert [request.num_prompt_tokens for request in trace.requests] == [line["prompt_tokens"] for line in lines]
    first, second = trace.requests[:2]
    assert first.prompt[0] == second.prompt[0]


def test_a_log_that_cannot_be_written_stops_nobody(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    with running(settings(request_log=Path("/dev/full")), engine_settings(tiny_model)) as server:
        for _ in range(2):
            assert server.complete().status == 200
        assert scraped(server)["libra:unlogged_requests_total"] == 2
        assert server.get("/health").status == 200
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_many_long_texts_leave_the_metrics_alone(served: Running) -> None:
    done, readers = threading.Event(), served.server.readers
    try:
        kept = [readers.submit(done.wait) for _ in range(40)]
        long = served.open("POST", "/v1/completions", {"model": BASE, "prompt": "ab " * 1000, "max_tokens": 2})
        assert served.get("/metrics").status == 200
        assert served.complete(prompt="short").status == 200
        assert not kept[-1].done()
    finally:
        done.set()
    assert long.getresponse().status in (200, 413)
    long.close()


def test_the_log_holds_text_when_asked(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with running(settings(request_log=path, request_log_text=True), engine_settings(tiny_model)) as server:
        reply = server.complete(prompt="say it", ignore_eos=True)
        gone = server.open(
            "POST", "/v1/completions", {"model": BASE, "prompt": "x", "max_tokens": 400, "ignore_eos": True}
        )
        while not server.in_engine(lambda engine: engine.scheduler.has_work):
            pass
        gone.close()
        while server.server.engine.streams:
            pass
    whole, aborted = (json.loads(line) for line in path.read_text().splitlines())
    assert (whole["prompt"], whole["output"]) == ("say it", reply.text)
    assert "error" not in whole
    assert aborted["error"] == "aborted"
    assert path.stat().st_mode & 0o777 == 0o600, "others may not read what people said"
