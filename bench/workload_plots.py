"""The pictures of `libra workload inspect --plot`: one PNG each for arrivals, popularity, lengths, turns and memory."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.format import clock, compact, count
from libra.errors import LibraError
from libra.spec import GIB
from workloads.arrivals import FloatArray
from workloads.inspection import Inspection
from workloads.memory_demand import LARGE_CHANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (8.0, 4.2)
DOTS_PER_INCH = 150
BLUE, ORANGE, GREEN, INK, FAINT = "#3b6fb6", "#e07b39", "#3d9970", "#2b2b2b", "#b9c7db"
MAX_BINS = 240
DASHES = (0, (4, 3))
HEADROOM = 1.2  # above the data, for the legend
BIN_WIDTHS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
MAX_RATIO_OF_FINE_TICKS = 2000
TURNS_QUANTILE = 0.999


def require_matplotlib() -> None:
    """Raises LibraError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise LibraError("--plot needs matplotlib; install it with: pip install 'libra-lora[plot]'")


def save_plots(inspection: Inspection, folder: Path) -> list[Path]:
    """Writes the PNGs of ``inspection`` into ``folder``, which is made if need be, and returns where they are.

    Raises LibraError without matplotlib and where the folder cannot be written.
    """
    require_matplotlib()
    figures = {
        "arrivals": _arrivals(inspection),
        "popularity": _popularity(inspection),
        "lengths": _lengths(inspection),
        "turns": _turns(inspection),
        "memory": _memory(inspection),
    }
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=DOTS_PER_INCH, metadata={"Software": None})
    except OSError as error:
        raise LibraError(f"cannot write plots to {folder}: {error.strerror}; choose another folder") from None
    return paths


def _arrivals(inspection: Inspection) -> "Figure":
    figure, (axes,) = _panels(inspection, "Requests over time")
    duration_s, arrival_s = inspection.header.duration_s, inspection.samples.arrival_s
    width = next((width for width in BIN_WIDTHS_S if duration_s / width <= MAX_BINS), BIN_WIDTHS_S[-1])
    edges = np.arange(0, max(duration_s // width, 1) + 1) * width
    rates = np.histogram(arrival_s[arrival_s < edges[-1]], edges)[0] / width
    mean = float(rates.mean())
    spread = 2 * np.sqrt(mean / width)
    time, unit = clock(duration_s)
    axes.axhspan(max(mean - spread, 0), mean + spread, color=FAINT, alpha=0.45, lw=0, label="Poisson, mean ± 2 sd")
    axes.stairs(rates, edges / time, color=BLUE, lw=1.3, baseline=None, label=f"requests in {width} s")
    axes.axhline(mean, color=INK, lw=0.8, ls=DASHES)
    top = HEADROOM * max(rates.max(), mean + spread)
    axes.set(xlabel=f"time, {unit}", ylabel="requests per second", xlim=(0, edges[-1] / time), ylim=(0, top))
    _legend(axes, columns=2)
    return figure


def _popularity(inspection: Inspection) -> "Figure":
    figure, (axes,) = _panels(inspection, "Popularity of adapters")
    counts, slope = inspection.samples.requests_by_adapter, inspection.statistics.popularity_slope
    ranks = np.arange(1, len(counts) + 1)
    axes.plot(ranks, counts, "o", color=BLUE, ms=5, mec="white", mew=0.5, label="adapters in use", zorder=3)
    if slope is not None:
        level = np.exp(np.mean(np.log(counts)) - slope * np.mean(np.log(ranks)))
        axes.plot(ranks, level * ranks**slope, color=ORANGE, lw=1.5, label=f"least squares: rank$^{{{slope:.2f}}}$")
    axes.set(xscale="log", yscale="log", xlabel="rank of the adapter", ylabel="requests")
    _plain_ticks(axes)
    _legend(axes)
    return figure


def _lengths(inspection: Inspection) -> "Figure":
    figure, (axes,) = _panels(inspection, "Lengths in tokens, cumulative")
    samples = inspection.samples
    for label, values, colour in (
        ("prompt", samples.prompt_tokens, BLUE),
        ("new in the prompt", samples.new_tokens, GREEN),
        ("output", samples.output_tokens, ORANGE),
    ):
        distinct, counts = np.unique(values, return_counts=True)
        shares = np.cumsum(counts) / counts.sum()
        axes.step(
            distinct, shares, where="post", color=colour, lw=1.8, label=f"{label}, median {np.median(values):,.0f}"
        )
    axes.set(xscale="log", xlabel="tokens", ylabel="share of requests", ylim=(0, 1.0))
    axes.yaxis.set_major_formatter("{x:.0%}")
    _plain_ticks(axes, y=False)
    _legend(axes)
    return figure


def _turns(inspection: Inspection) -> "Figure":
    figure, (axes,) = _panels(inspection, "Turns of a session")
    turns = inspection.samples.turns
    last = max(int(np.quantile(turns, TURNS_QUANTILE)), 1)
    shares = np.bincount(np.minimum(turns, last + 1), minlength=last + 2)[1:] / len(turns)
    axes.bar(np.arange(1, last + 2), shares, color=[BLUE] * last + [FAINT], width=0.8)
    mean = float(turns.mean())
    axes.axvline(mean, color=ORANGE, lw=1.5, label=f"mean {compact(mean)}")
    axes.set(xlabel="turns", ylabel="share of sessions", xlim=(0.4, last + 1.6))
    axes.yaxis.set_major_formatter("{x:.0%}")
    step = -(-last // 10)
    ticks = range(1, last + 2 - (step + 1) // 2, step)
    axes.set_xticks([*ticks, last + 1], [*map(str, ticks), f">{last}"])
    _legend(axes)
    return figure


def _memory(inspection: Inspection) -> "Figure":
    figure, (level, change) = _panels(inspection, f"Memory demand in flight, {inspection.model}", heights=(2, 1))
    demand = inspection.memory_demand
    time, unit = clock(inspection.header.duration_s)
    seconds = np.arange(len(demand.kv_bytes)) / time
    level.stackplot(
        seconds,
        demand.adapter_bytes / GIB,
        demand.kv_bytes / GIB,
        colors=[ORANGE, BLUE],
        labels=["adapters in flight", "their KV"],
        lw=0,
    )
    total = demand.adapter_bytes + demand.kv_bytes
    level.set(ylabel="GiB", ylim=(0, HEADROOM * total.max() / GIB))
    _legend(level, columns=2)
    changes = 100 * _relative_changes(total)
    change.plot(seconds[1:], changes, ".", color=INK, ms=3, alpha=0.5, mew=0)
    change.axhline(100 * LARGE_CHANGE, color=ORANGE, lw=1.2, ls=DASHES)
    change.set(xlabel=f"time, {unit}", ylabel="change in\na second, %")
    change.set(xlim=(0, len(total) / time), ylim=(0, min(100.0, max(2 * 100 * LARGE_CHANGE, *changes, 0.0))))
    return figure


def _relative_changes(total: FloatArray) -> FloatArray:
    """|step| / level before it, shape [seconds - 1]; 0 where there was nothing."""
    steps = np.abs(np.diff(total))
    return np.divide(steps, total[:-1], out=np.zeros_like(steps), where=total[:-1] > 0)


def _panels(inspection: Inspection, title: str, heights: tuple[int, ...] = (1,)) -> tuple["Figure", list["Axes"]]:
    """A figure with panels one above the other on one time axis; no global state is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    panels: list[Axes] = list(grid[:, 0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#888888")
        axes.tick_params(color="#888888", labelcolor=INK, labelsize=9)
        axes.grid(True, axis="y", color="#e6e6e6", lw=0.7)
        axes.set_axisbelow(True)
    statistics = inspection.statistics
    subtitle = (
        f"{inspection.header.name}: {count(statistics.num_requests)} requests, "
        f"{compact(statistics.request_rate)} req/s, seed {inspection.header.seed}"
    )
    panels[0].set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=24)
    panels[0].annotate(
        subtitle, (0, 1), (0, 9), "axes fraction", textcoords="offset points", fontsize=9, color="#666666"
    )
    return figure, panels


def _legend(axes: "Axes", columns: int = 1) -> None:
    axes.legend(frameon=False, fontsize=9, ncols=columns, labelcolor=INK, loc="best")


def _plain_ticks(axes: "Axes", y: bool = True) -> None:
    """1, 2, 5, 10, ... or 1, 10, 100, ... on logarithmic axes, written out."""
    from matplotlib.ticker import LogLocator

    for axis in (axes.xaxis, axes.yaxis) if y else (axes.xaxis,):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < MAX_RATIO_OF_FINE_TICKS * low else (1.0,)))
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter("")
