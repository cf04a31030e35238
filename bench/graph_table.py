"""The screen of `libra workload graph`."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.format import compact, count
from workloads.graphs.model import GraphModel
from workloads.graphs.shapes import FEATURES, Closeness

SCHEMA_VERSION = 1


def graph_table(model: GraphModel, rows: Sequence[Closeness], num_graphs: int) -> RenderableType:
    """What the model was learnt from, its clusters, and how close its graphs are to the source's."""
    title = Text(model.name, style="bold")
    title.append(
        f"  {count(model.num_graphs)} call graphs, {count(len(model.entries))} roots, "
        f"{count(len(model.services))} services besides stores",
        style="dim",
    )
    parts: list[RenderableType] = [Text(), title, Text(), _clusters(model), Text(), _closeness(rows)]
    parts.append(
        Text(
            f"{count(num_graphs)} generated graphs. KS: two-sample Kolmogorov-Smirnov distance, 0 is equal; p is "
            "asymptotic, and too high for small whole numbers.",
            style="dim",
        )
    )
    mended = [f"{reason.replace('_', ' ')} {number:,}" for reason, number in model.counts.items() if number]
    if mended:
        parts.append(Text(f"In the source: {', '.join(mended)}.", style="dim"))
    return Group(*parts)


def graph_json(model: GraphModel, rows: Sequence[Closeness], num_graphs: int, seed: int) -> str:
    """The same as one JSON object on one line, for scripts."""
    row = {
        "schema_version": SCHEMA_VERSION,
        "name": model.name,
        "seed": seed,
        "source_graphs": model.num_graphs,
        "generated_graphs": num_graphs,
        "roots": len(model.entries),
        "services": len(model.services),
        "clusters": {
            str(number): {"roots": len(part.entries), "graphs": part.num_graphs}
            for number, part in model.clusters.items()
        },
        "closeness": [asdict(feature) for feature in rows],
        "counts": dict(model.counts),
    }
    return json.dumps(row, allow_nan=False)


def _clusters(model: GraphModel) -> Table:
    table = _table("cluster", "roots", "graphs", "share", "vertices", "depth", "width")
    for number, part in model.clusters.items():
        shapes = part.source_shapes
        means = (sum(value * times for value, times in shapes[name].items()) for name in ("vertices", "depth", "width"))
        table.add_row(
            str(number),
            count(len(part.entries)),
            count(part.num_graphs),
            f"{part.num_graphs / model.num_graphs:.0%}",
            *(compact(mean / part.num_graphs) for mean in means),
        )
    return table


def _closeness(rows: Sequence[Closeness]) -> Table:
    table = _table("mean", "source", "generated", "KS", "p")
    for row in rows:
        figures = (row.source_mean, row.generated_mean, row.distance, row.p_value)
        table.add_row(FEATURES[row.feature], *(compact(figure) for figure in figures))
    return table


def _table(first: str, *names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, style="bold", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", header_style="bold cyan", no_wrap=True)
    return table
