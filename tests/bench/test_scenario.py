"""Scenario files: one argument for a study, flags on top of it, and one line for whatever is wrong with a file."""

import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.scenario import read_scenario
from workloads.adapters import parse_ranks
from workloads.registry import WORKLOADS
from workloads.trace import read_trace

SHIPPED = ("agents", "chatbot", "scale", "translation")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `libra` with these arguments."""
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


def write(folder: Path, *lines: str) -> Path:
    path = folder / "study.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_scenarios_are_the_papers(name: str) -> None:
    path, options = read_scenario(name)
    assert path.name == f"{name}.toml"
    assert options["workload"] in WORKLOADS
    assert parse_ranks(options["ranks"]) == (32, 64)
    assert options["duration"] == "1800"
    assert int(options["repeats"]) >= 5
    assert options["num_loras"] == ("1000" if name == "scale" else "50")


def test_a_number_after_the_name_is_the_number_of_adapters() -> None:
    assert read_scenario("chatbot-20")[1] == read_scenario("chatbot")[1] | {"num_loras": "20"}
    assert read_scenario("scale-2000")[1]["num_loras"] == "2000"


def test_make_takes_a_scenario_and_flags_override_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    assert run(capsys, "workload", "make", "--scenario", "translation-20", "--duration", 20, "--out", out)[0] == 0
    header = read_trace(out).header
    assert (header.name, len(header.adapters), header.duration_s) == ("translation", 20, 20.0)
    arguments = ("--scenario", "translation-20", "--duration", 20, "--num-loras", 3, "--out", out)
    assert run(capsys, "workload", "make", "chatbot", *arguments)[0] == 0
    header = read_trace(out).header
    assert (header.name, len(header.adapters)) == ("chatbot", 3)


def test_bench_with_a_scenario_is_bench_with_its_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'description = "tests only"',
        'workload = "chatbot"',
        "duration = 20",
        "num_loras = 6",
        "ranks = [8, 16]",
        'policy = ["lru", "fastlibra"]',
        "cache_fraction = 0.5",
        "jump = false",
        'goodput = ["ttft:500", "tpot:50"]',
    )
    flags = ("--workload", "chatbot", "--duration", 20, "--num-loras", 6, "--ranks", "8,16", "--no-jump")
    flags = (*flags, "--policy", "lru,fastlibra", "--cache-fraction", 0.5, "--goodput", "ttft:500 tpot:50")
    lines = [
        run(capsys, "bench", *arguments, "--disable-tqdm")[1].splitlines()[-1]
        for arguments in (("--scenario", path), flags)
    ]
    assert lines[0] == lines[1]
    assert set(json.loads(lines[0])["policies"]) == {"lru", "fastlibra"}
    _, stdout, _ = run(capsys, "bench", "--scenario", path, "--policy", "lru", "--disable-tqdm")
    assert set(json.loads(stdout.splitlines()[-1])["policies"]) == {"lru"}


def test_a_flag_overrides_the_other_way_to_say_it_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run(capsys, "workload", "make", "chatbot", "--duration", 20, "--num-loras", 6, "--out", out)
    path = write(tmp_path, 'workload = "agents"', "cache_fraction = 0.5", 'policy = "lru"')
    flags = ("--scenario", path, "--trace", out, "--hbm-cache-gib", 4, "--disable-tqdm")
    code, stdout, stderr = run(capsys, "bench", *flags)
    assert code == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["workload"] == "chatbot"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['workload = "chatbot"', "num_lora = 3"], "study.toml: unknown key 'num_lora': did you mean 'num_loras'?"),
        (['workload = "chatbot"', "num_loras = 3.5"], "study.toml: num_loras: "),
        (['workload = "chatbot"', "num_loras = true"], "study.toml: num_loras: "),
        (['workload = "chatbot"', "[engine]", "x = 1"], "study.toml: unknown key 'engine'"),
        (['workload = "chatbot"', "ranks = {a = 1}"], "study.toml: ranks: must be text"),
        (['workload = "chatbot', "num_loras = 3"], "study.toml is not TOML"),
        (['workload = "chatbott"'], "unknown workload 'chatbott': did you mean 'chatbot'?"),
        (["num_loras = 3"], "name a workload (chatbot"),
        (['scenario = "chatbot"'], "unknown key 'scenario'"),
    ],
)
def test_bad_files_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, lines: list[str], message: str
) -> None:
    path, out = write(tmp_path, *lines), tmp_path / "t.jsonl"
    code, stdout, stderr = run(capsys, "workload", "make", "--scenario", path, "--out", out)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chatbto", "unknown scenario 'chatbto': did you mean 'chatbot'?"),
        ("chatbto-50", "unknown scenario 'chatbto-50'"),
        ("chatbot-0", "--num-loras is 0"),
        ("absent.toml", "cannot read scenario absent.toml"),
    ],
)
def test_scenarios_that_are_not_there(capsys: pytest.CaptureFixture[str], name: str, message: str) -> None:
    code, _, stderr = run(capsys, "bench", "--scenario", name)
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
