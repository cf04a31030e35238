"""What the template shows, made ready: text, cells and drawn charts, and nothing left to compute."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LegendItem:
    """``role`` is a colour of style.css; ``dashes`` is set for lines, as SVG's stroke-dasharray ("" is solid)."""

    label: str
    role: str
    dashes: str | None = None


@dataclass(frozen=True)
class Chart:
    """A figure with its words. ``svg`` is markup; everything else is text for the template to escape."""

    title: str
    svg: str
    caption: str = ""
    legend: tuple[LegendItem, ...] = ()


@dataclass(frozen=True)
class ChartGroup:
    """Charts that share a heading, and what of their legend they share."""

    title: str
    charts: tuple[Chart, ...]
    legend: tuple[LegendItem, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A figure, what stands small behind it (an interval), and how it is marked."""

    text: str
    small: str = ""
    is_best: bool = False
    is_warning: bool = False


@dataclass(frozen=True)
class TableRow:
    """A heading has no cells. ``depth`` indents the label."""

    label: str
    unit: str = ""
    cells: tuple[Cell, ...] = ()
    depth: int = 0


@dataclass(frozen=True)
class Table:
    """``corner`` heads the column of labels; ``numeric`` aligns the cells right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    corner: str = ""
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Tile:
    """One headline figure."""

    label: str
    value: str
    unit: str
    small: str = ""


@dataclass(frozen=True)
class Fact:
    """One line of where a run comes from; ``is_code`` sets it in the fixed font."""

    label: str
    text: str
    is_code: bool = False


@dataclass(frozen=True)
class RunSection:
    """One run: all that its own report shows. ``warnings`` come first on the page, worst first."""

    anchor: str
    name: str
    title: str
    conditions: str
    caption: str
    leader: str
    tiles: tuple[Tile, ...]
    comparison: Table | None
    groups: tuple[ChartGroup, ...]
    fairness: Table | None
    adapters: tuple[Table, ...]
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What only several runs together show. ``overview`` names them, ``matrices`` hold one metric each."""

    overview: Table | None = None
    matrices: tuple[Table, ...] = ()
    curves: tuple[ChartGroup, ...] = ()
    differences: tuple[Table, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Page:
    """What stands around the sections of a report. ``left_out`` names runs for whose sections there is no room."""

    title: str
    captions: tuple[str, ...]
    study: Study | None = None
    left_out: tuple[str, ...] = ()
