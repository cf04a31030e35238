"""What a soak leaves behind: samples as CSV, figures and verdict as JSON."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.machine import describe_machine
from bench.soak.memory import curve
from bench.soak.run import SoakResult
from bench.soak.settings import SoakSettings
from libra import __version__
from libra.errors import LibraError

SAMPLES_FILE, RESULT_FILE = "soak.csv", "soak.json"


def result_document(result: SoakResult, settings: SoakSettings, model: str) -> dict[str, Any]:
    """Figures, settings and machine. ``verdict`` is PASSED, FAILED or INTERRUPTED, ``breaches`` say why. ``rss`` is the
    course of memory over the whole run; ``host_used`` when it began to count, since caches that fill are no leak."""
    rss = [sample.usage.rss_mib for sample in result.samples]
    counted = [one for one in result.samples if one.time_s >= settings.warmup_share * settings.minutes * 60.0]
    return {
        "verdict": result.verdict,
        "breaches": result.breaches,
        "peak_rps": round(result.peak_rps, 3),
        "rate_rps": round(result.rate_rps, 3),
        "counts": dict(sorted(result.tally.counts.items())),
        "memory": None if result.drift is None else {k: round(v, 5) for k, v in asdict(result.drift).items()},
        "rss": {"first_mib": rss[0], "curve": curve(rss), "last_mib": rss[-1]} if rss else None,
        "host_used": counted[0].host_used if counted else None,
        "pool_check": "clean" if result.exit_status == 0 else "not clean, or the server did not drain",
        "settings": {"model": model, **asdict(settings)},
        "libra": __version__,
        "machine": describe_machine(),
    }


def write_result(directory: Path, result: SoakResult, document: dict[str, Any]) -> None:
    """Raises LibraError when the files cannot be written."""
    rows = [sample.row() for sample in result.samples]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / SAMPLES_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["time_s"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (directory / RESULT_FILE).write_text(
            json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise LibraError(f"--out {directory}: {error.strerror}; choose a directory that can be written") from error
