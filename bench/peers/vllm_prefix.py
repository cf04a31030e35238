"""libra's ``vllm`` policy against the real vLLM: prompt tokens found in the cache, on a sequential multi-turn trace.

``python -m bench.peers.vllm_prefix --vllm VENV/bin/vllm --model DIR`` writes results/peers/vllm_prefix.csv. vLLM
serves the trace one request at a time, as token ids, each turn with vLLM's own answers as its history; libra's policy
then runs on the very same tokens with as many usable blocks. Exit code 1 when the totals differ by more than 1 %.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from baselines.vllm import VLLM
from bench.peers.comparison import Comparison
from bench.peers.conversations import Conversations
from bench.peers.files import conclude, peer_program
from bench.peers.libra_side import run_policy
from bench.peers.servers import VllmOptions, ask, counters, free_port, serving, vocab_size
from bench.progress import task_progress
from libra.errors import LibraError
from libra.request import Request, Segment
from libra.tokens import segment_tokens

NULL_BLOCKS = 1  # block 0 of vLLM's pool stands for "no block" and holds no KV (v1/core/block_pool.py)
COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "num_preemptions")
DEFAULT_BLOCKS = (64, 128, 256)
BLOCKS_PER_CONVERSATION = 8  # fewer than a conversation comes to hold, so that there is eviction at every size


@dataclass(frozen=True)
class Served:
    """What vLLM did: the requests with the tokens it saw and said, prompt tokens it found cached by request, its
    counters over the trace, and its version."""

    requests: list[Request]
    hit_tokens: list[int]
    counted: dict[str, float]
    version: str


def main(
    vllm: Annotated[Path, typer.Option(help="The peer's executable, such as VENV/bin/vllm.")],
    model: Annotated[Path, typer.Option(help="A directory that libra model make-tiny wrote, with adapters.")],
    blocks: Annotated[
        list[int] | None, typer.Option(help="vLLM's blocks; repeat it.  \\[default: 64, 128, 256]")
    ] = None,
    block_size: int = 32,
    num_requests: int = 160,
    num_loras: int = 4,
    max_loras: int = 2,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Directory of rows, meta and README.")] = Path("results/peers"),
) -> None:
    """Compares hits at each number of blocks and writes the rows."""
    with peer_program(), tempfile.TemporaryDirectory() as scratch:
        adapters = sorted((model / "adapters").glob("lora-*"))[:num_loras]
        if len(adapters) < num_loras:
            raise LibraError(f"--model {model}: holds {len(adapters)} adapters lora-NN, {num_loras} are needed")
        comparisons = []
        for num_blocks in blocks or DEFAULT_BLOCKS:
            trace = sequential_trace(num_requests, num_loras, num_blocks // BLOCKS_PER_CONVERSATION, seed)
            options = VllmOptions(vllm, model, adapters, max_loras, block_size, num_blocks)
            served = serve_all(options, trace, Path(scratch) / f"vllm-{num_blocks}.log")
            usable = num_blocks - NULL_BLOCKS
            ours = run_policy(VLLM, served.requests, num_loras, block_size, usable, max_loras)
            comparisons.append(
                Comparison(
                    policy=VLLM.name,
                    setting={"blocks": num_blocks, "block_size": block_size},
                    requests=served.requests,
                    peer_hits=served.hit_tokens,
                    libra_hits=ours.hit_tokens,
                    peer_total=served.counted["prefix_cache_hits"],
                    facts={
                        "usable_blocks": usable,
                        **{f"vllm_{name}": value for name, value in served.counted.items()},
                        "libra_num_preemptions": ours.preemptions,
                    },
                )
            )
        conclude(comparisons, "vllm_prefix", out, {"vllm": served.version})


def sequential_trace(num_requests: int, num_adapters: int, num_open: int, seed: int) -> list[Request]:
    """Short conversations, ``num_open`` of them at a time."""
    return Conversations(
        num_requests=num_requests,
        num_adapters=num_adapters,
        num_open=num_open,
        turns=6.0,
        zipf=0.5,
        system_tokens=64,
        turn_tokens=60.0,
        output_tokens=40.0,
        max_context=1000,
        seed=seed,
    ).requests()


def serve_all(options: VllmOptions, trace: Sequence[Request], log: Path) -> Served:
    """Serves ``trace`` by a vLLM of its own, one request after the other. Raises LibraError when it fails one."""
    num_tokens = vocab_size(options.model)
    answers: dict[str, tuple[int, ...]] = {}
    requests, hits, port = [], [], free_port()
    with serving(options.command(port), port, log) as url:
        before, version = counters(url), str(ask(f"{url}/version")["version"])
        with task_progress(len(trace), f"requests to vLLM with {options.num_blocks} blocks") as progress:
            for request in trace:
                prompt = with_answers(request, answers, num_tokens)
                answer = _complete(url, request, prompt)
                (choice,) = answer["choices"]
                said = tuple(choice["token_ids"])
                if request.output is not None:
                    answers[request.output] = said
                requests.append(replace(request, prompt=(), prompt_token_ids=prompt, output_token_ids=said))
                hits.append(int((answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0))
                progress.advance(f"request {request.id}")
        after = counters(url)
    counted = {name: after[f"vllm:{name}_total"] - before.get(f"vllm:{name}_total", 0.0) for name in COUNTERS}
    return Served(requests, hits, counted, version)


def with_answers(request: Request, answers: dict[str, tuple[int, ...]], num_tokens: int) -> tuple[int, ...]:
    """The prompt as token ids below ``num_tokens``, with what a server has said in place of the trace's answers."""

    def tokens(segment: Segment) -> Sequence[int]:
        if segment.id in answers:
            return answers[segment.id][segment.start : segment.start + segment.length]
        made: list[int] = segment_tokens(*segment, num_tokens).tolist()
        return made

    return tuple(token for segment in request.prompt for token in tokens(segment))


def _complete(url: str, request: Request, prompt: Sequence[int]) -> Any:
    return ask(
        f"{url}/v1/completions",
        {
            "model": request.adapter,
            "prompt": prompt,
            "max_tokens": request.output_tokens,
            "min_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "return_token_ids": True,
        },
    )


if __name__ == "__main__":
    typer.run(main)
