"""results/peers/README.md, made of the summaries beside it."""

from collections.abc import Callable, Mapping, Sequence

Row = Mapping[str, str]
Rows = Sequence[Row]
Columns = Sequence[tuple[str, Callable[[Row], str]]]

INTRODUCTION = """# Policies against the systems they are modelled on

Prompt tokens found in the cache, request by request, on the same tokens in the same order. Made from the CSV files
here; `NAME.rows.csv.gz` has every request, `NAME.json` the command, the versions and the machine. How to install the
peers, and what `VLLM`, `SGLANG` and `DIR` are: [bench/peers](../../bench/peers/README.md).
"""

VLLM_TEXT = """## `vllm` against the real vLLM on CPU

`python -m bench.peers.vllm_prefix --vllm VLLM/bin/vllm --model DIR`: a sequential multi-turn trace over several
adapters, sent as token ids, each turn with vLLM's own answers as its history. Hits are vLLM's counter
`vllm:prefix_cache_hits_total`; one of its blocks is its null block, so the policy gets one less.
"""

SGLANG_TEXT = """## `sglang` against SGLang's own RadixCache

`python -m bench.peers.sglang_radix --python SGLANG/bin/python`: a sequential multi-turn trace over many adapters (Zipf
1.5), with eviction on demand, as SGLang's scheduler asks for it. What differs: SGLang evicts whole nodes of its tree, a
turn's prompt or answer at a time, so that it frees more tokens than were asked for ("beyond need"), and reckons with
one page more than a request takes; the policy evicts block by block.
"""

TIMES_TEXT = """CPU time per request, in microseconds; both in Python. SGLang's figures are bare calls of its tree,
without the work on its slots in device tensors. Those of libra are what the engine does: `admit` includes match, pins,
block tables, adapter slots and the evictions it makes, which `evict` has again, with those of decoding.
"""


def _count(name: str) -> Callable[[Row], str]:
    return lambda row: f"{float(row[name]):,.0f}"


def _plain(name: str) -> Callable[[Row], str]:
    return lambda row: row[name]


COMMON: Columns = (
    ("requests", _count("requests")),
    ("prompt tokens", _count("prompt_tokens")),
    ("its hits", _count("peer_hit_tokens")),
    ("libra's hits", _count("libra_hit_tokens")),
    ("difference", lambda row: f"{float(row['difference_percent']):+.2f} %"),
    ("requests that differ", _count("requests_that_differ")),
)
VLLM_COLUMNS: Columns = (
    ("blocks of 32", _plain("blocks")),
    *COMMON,
    ("preemptions, both", lambda row: f"{float(row['vllm_num_preemptions']):.0f}, {row['libra_num_preemptions']}"),
)
SGLANG_COLUMNS: Columns = (
    ("page", _plain("page_size")),
    ("capacity", _count("capacity_tokens")),
    *COMMON,
    ("beyond need, per request", lambda row: f"{_per_request(row, 'sglang_evicted_beyond_need'):.0f}"),
)
TIME_COLUMNS: Columns = (
    ("page", _plain("page_size")),
    *((f"SGLang {name}", _count(f"sglang_{name}_us")) for name in ("match", "insert", "evict")),
    *((f"libra {name}", _count(f"libra_{name}_us")) for name in ("admit", "insert", "evict", "release")),
)


def _per_request(row: Row, name: str) -> float:
    return float(row[name]) / float(row["requests"])


def readme_text(tables: Mapping[str, Rows]) -> str:
    """The page for the comparisons there are, by name."""
    parts = [INTRODUCTION]
    if "vllm_prefix" in tables:
        parts += [VLLM_TEXT, table(VLLM_COLUMNS, tables["vllm_prefix"])]
    if "sglang_radix" in tables:
        rows = tables["sglang_radix"]
        parts += [SGLANG_TEXT, table(SGLANG_COLUMNS, rows), TIMES_TEXT, table(TIME_COLUMNS, rows)]
    return "\n".join(parts)


def table(columns: Columns, rows: Rows) -> str:
    """A Markdown table of ``rows``."""
    lines = ["| " + " | ".join(title for title, _ in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"
