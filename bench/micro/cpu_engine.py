"""The real CPU engine under a fixed load, with adapters and without, in turn.

`python -m bench.micro.cpu_engine`: the 32 million parameter model, 64 requests of 256 prompt and 64 output tokens at
4 req/s, 8 adapters of rank 16 and 32. Writes results/micro/cpu_engine.json. Run it on an idle machine.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import numpy as np
import typer

from bench.machine import describe_machine
from bench.metrics import measure
from bench.platform import limit_openmp_spinning
from bench.settings import CPU, BenchSettings
from libra.cache.fastlibra import FASTLIBRA
from libra.engine.build import CacheSizes
from libra.engine.replay import replay
from libra.request import Request, Segment


@dataclass(frozen=True)
class Load:
    """Poisson arrivals of equal requests, adapters in turn."""

    num_requests: int = 64
    prompt_tokens: int = 256
    output_tokens: int = 64
    request_rate: float = 4.0
    num_adapters: int = 8
    seed: int = 0

    def requests(self, adapters: list[str]) -> list[Request]:
        """The requests, with prompts that share nothing."""
        gaps = np.random.default_rng(self.seed).exponential(1.0 / self.request_rate, self.num_requests)
        return [
            Request(
                id=number,
                arrival_s=float(arrival_s),
                adapter=adapters[number % len(adapters)],
                output_tokens=self.output_tokens,
                prompt=(Segment(f"prompt {number}", 0, self.prompt_tokens),),
                output=f"answer {number}",
            )
            for number, arrival_s in enumerate(np.cumsum(gaps))
        ]


def main(
    repeats: int = 5,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = CPU.dtype,
    out: Path = Path("results/micro/cpu_engine.json"),
) -> None:
    """Measures both loads in turn and prints medians and ratios."""
    load = Load()
    settings = BenchSettings(workload="chatbot", device="cpu", num_loras=load.num_adapters, ranks=(16, 32), dtype=dtype)
    limit_openmp_spinning()
    from bench.platform_real import RealPlatform

    platform = RealPlatform(settings)
    specs = platform.all_adapters()
    requests = load.requests([spec.adapter_id for spec in specs])
    plain = [replace(request, adapter=None) for request in requests]
    sizes = CacheSizes.from_bytes(1 << 30, 1 << 30, platform.model.block_bytes(settings.engine.block_tokens))
    rows = []
    for repeat in range(repeats):
        row: dict[str, float] = {"repeat": repeat}
        for name, variant in (("adapters", requests), ("base", plain)):
            engine = platform.engine(FASTLIBRA, specs, sizes)
            metrics = measure(replay(engine, variant)).metrics
            engine.manager.memory.link.close()
            for metric in ("mean_ttft_ms", "mean_tpot_ms", "output_throughput"):
                row[f"{metric}_{name}"] = round(float(metrics[metric] or 0.0), 3)
        row["ttft_ratio"] = round(row["mean_ttft_ms_adapters"] / row["mean_ttft_ms_base"], 4)
        row["tpot_ratio"] = round(row["mean_tpot_ms_adapters"] / row["mean_tpot_ms_base"], 4)
        rows.append(row)
        typer.echo(json.dumps(row))
    summary = {key: round(median(row[key] for row in rows), 3) for key in rows[0] if key != "repeat"}
    document = {"dtype": dtype, "load": vars(load), "machine": describe_machine(), "median": summary, "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    typer.echo(
        f"TTFT {summary['mean_ttft_ms_adapters']} ms, TPOT {summary['mean_tpot_ms_adapters']} ms; adapters cost "
        f"{mean((summary['ttft_ratio'], summary['tpot_ratio'])) - 1:.1%}"
    )


if __name__ == "__main__":
    typer.run(main)
