"""Tiny files in the schema of every service trace, made up for the tests."""

from pathlib import Path

from workloads.formats import AdapterMapping, ReadOptions

FOLDER = Path(__file__).parent / "data" / "services"
SAMPLES = {
    "mooncake": ("mooncake", "mooncake.jsonl"),
    "azure-llm": ("azure-llm", "azure-llm.csv"),
    "azure-functions-2019": ("azure-functions", "azure-functions-2019.csv"),
    "azure-functions-2021": ("azure-functions", "azure-functions-2021.csv"),
    "burstgpt": ("burstgpt", "burstgpt.csv"),
    "servegen": ("servegen", "servegen"),
    "qwen-bailian": ("qwen-bailian", "qwen-bailian.jsonl"),
    "kv-cache-tester": ("kv-cache-tester", "kv-cache-tester.json"),
    "lmcache-agent": ("lmcache-agent", "lmcache-agent.jsonl"),
    "openai-log": ("openai-log", "openai-log.jsonl"),
}
# Few adapters keep the committed headers short; they are drawn where the format has none.
DRAWN = frozenset({"mooncake", "azure-llm", "qwen-bailian", "lmcache-agent"})


def sample(name: str) -> tuple[str, Path]:
    """The format of a sample and its file or folder."""
    trace_format, path = SAMPLES[name]
    return trace_format, FOLDER / path


def sample_options(name: str) -> ReadOptions:
    """How the committed conversion of a sample is made."""
    return ReadOptions(AdapterMapping(3 if name in DRAWN else None), seed=5)
