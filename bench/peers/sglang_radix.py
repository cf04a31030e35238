"""libra's ``sglang`` policy against SGLang's own radix cache: prompt tokens found, and the time both take.

``python -m bench.peers.sglang_radix --python VENV/bin/python`` writes results/peers/sglang_radix.csv. That Python has
the wheel ``sglang``; its RadixCache gets the requests of a multi-turn trace over many adapters, one at a time and with
eviction, as sglang_side.py says. Exit code 1 when the totals of hit tokens differ by more than 1 %.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from baselines.sglang import SGLANG
from bench.peers import sglang_side
from bench.peers.comparison import Comparison
from bench.peers.conversations import Conversations
from bench.peers.files import conclude, peer_program
from bench.peers.libra_side import run_policy
from libra.errors import LibraError
from libra.request import Request
from libra.tokens import prompt_tokens, replayed_output

VOCAB_SIZE = 32_000
DEFAULT_PAGE_SIZES = (16,)


def main(
    python: Annotated[Path, typer.Option(help="The peer's Python, such as VENV/bin/python.")],
    page_size: Annotated[list[int] | None, typer.Option(help="Tokens of a page; repeat it.  \\[default: 16]")] = None,
    num_requests: int = 4000,
    num_loras: int = 50,
    capacity: Annotated[int, typer.Option(help="Tokens that the cache holds.")] = 400_000,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Directory of rows, meta and README.")] = Path("results/peers"),
) -> None:
    """Compares hits and times at each page size and writes the rows."""
    with peer_program():
        requests = with_tokens(multi_turn_trace(num_requests, num_loras, seed))
        comparisons, version = [], ""
        for size in page_size or DEFAULT_PAGE_SIZES:
            theirs = run_peer(python, requests, size, capacity)
            ours = run_policy(SGLANG, requests, num_loras, size, capacity // size, SGLANG.max_adapters or 1)
            version = theirs["sglang"]
            comparisons.append(
                Comparison(
                    policy=SGLANG.name,
                    setting={"page_size": size, "capacity_tokens": capacity},
                    requests=requests,
                    peer_hits=theirs["hit_tokens"],
                    libra_hits=ours.hit_tokens,
                    peer_total=None,
                    facts={
                        "sglang_evicted_beyond_need": theirs["evicted_beyond_need"],
                        **{f"sglang_{name}_us": micros(total, requests) for name, total in theirs["seconds"].items()},
                        **{f"libra_{name}_us": micros(total, requests) for name, total in ours.seconds.items()},
                    },
                )
            )
        conclude(comparisons, "sglang_radix", out, {"sglang": version})


def multi_turn_trace(num_requests: int, num_adapters: int, seed: int) -> list[Request]:
    """Conversations that together want more than the default capacity holds."""
    return Conversations(
        num_requests=num_requests,
        num_adapters=num_adapters,
        num_open=300,
        turns=8.0,
        zipf=1.5,
        system_tokens=512,
        turn_tokens=150.0,
        output_tokens=150.0,
        max_context=4000,
        seed=seed,
    ).requests()


def with_tokens(requests: Sequence[Request]) -> list[Request]:
    """The same requests with their token ids written out."""
    return [
        replace(
            request,
            prompt=(),
            prompt_token_ids=tuple(prompt_tokens(request, VOCAB_SIZE).tolist()),
            output_token_ids=tuple(replayed_output(request, VOCAB_SIZE).tolist()),
        )
        for request in requests
    ]


def run_peer(python: Path, requests: Sequence[Request], page_size: int, capacity: int) -> Any:
    """What sglang_side.py says of ``requests``. Raises LibraError with its last line when it fails."""
    texts = [(*(request.prompt_token_ids or ()), *(request.output_token_ids or ())) for request in requests]
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(
            file,
            page_size=page_size,
            capacity_tokens=capacity,
            tokens=np.array([token for text in texts for token in text], dtype=np.int64),
            prompts=np.array([len(request.prompt_token_ids or ()) for request in requests]),
            outputs=np.array([len(request.output_token_ids or ()) for request in requests]),
            adapters=np.array([request.adapter for request in requests]),
        )
        file.flush()
        command = [str(python), sglang_side.__file__, file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LibraError(f"--python {python}: cannot run ({error.strerror}); name a Python with sglang") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise LibraError(f"--python {python}: SGLang's side ended with code {done.returncode}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def micros(seconds: float, requests: Sequence[Request]) -> float:
    """Microseconds for each request."""
    return 1e6 * seconds / len(requests)


if __name__ == "__main__":
    typer.run(main)
