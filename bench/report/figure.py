"""Drawing with matplotlib, and its SVG as a fragment that belongs to a page: small, coloured by CSS, with words."""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from bench.report.colours import colour, with_roles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# CSS pixels: a phone's column. Wider screens put several charts side by side and hardly scale them.
WIDTH = 376.0
LABEL_SIZE = 10.5
# An artist with this gid and a name behind it shows the name under the pointer.
SERIES = "series:"
_DPI = 72  # matplotlib's SVG counts points, so that one point is one pixel
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_NEEDLESS = frozenset({"metadata", "defs", "style"})
_GEOMETRY = frozenset({"d", "x", "y", "transform"})
_POINTS = ("M 0 0 \nL 0 0 \n", "M 0 0 \nL 0 -0 \n", "M 0 0 \nL -0 0 \n")  # tick marks of no length
_NUMBER = re.compile(r"-?\d+\.\d+")
_FONT_FAMILY = re.compile(r"font-family:[^;]*;? ?")
_NO_ROTATION = re.compile(r"rotate\(-?0 [^)]*\)")


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib's settings for everything drawn in the block: text stays text, and equal charts get equal ids."""
    import matplotlib

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "libra", "text.parse_math": False, "font.size": LABEL_SIZE}
    ):
        yield


def new_axes(
    height: float, *, left: float = 46, right: float = 12, top: float = 18, bottom: float = 34
) -> tuple["Figure", "Axes"]:
    """A figure of ``WIDTH`` x ``height`` px with one pair of axes inside the margins (px); no global state changes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasSVG(figure)
    width_share, height_share = (WIDTH - left - right) / WIDTH, (height - top - bottom) / height
    axes = figure.add_axes((left / WIDTH, bottom / height, width_share, height_share))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colour("muted"))
    axes.tick_params(length=0, pad=5, labelcolor=colour("muted"))
    axes.grid(True, axis="y", color=colour("grid"), lw=1)
    axes.set_axisbelow(True)
    return figure, axes


def bare_axes(height: float, *, left: float = 1, right: float = 1) -> tuple["Figure", "Axes"]:
    """Axes without lines or ticks whose unit is the pixel: x from 0 to the width inside, y from 0 at the top down."""
    figure, axes = new_axes(height, left=left, right=right, top=0, bottom=0)
    axes.set(xlim=(0, WIDTH - left - right), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def name_axes(axes: "Axes", x: str, y: str) -> None:
    """``x`` under the axis, ``y`` above it, level: upright text reads better than rotated."""
    axes.set_xlabel(x, color=colour("muted"), labelpad=4)
    axes.annotate(
        y, (0, 1), (-axes.bbox.x0, 7), "axes fraction", textcoords="offset points", color=colour("muted"), ha="left"
    )


def log_ticks(axis: "Axis") -> None:
    """1, 2, 5, 10, ... on a logarithmic axis, or powers of ten where there are many; no minor ones."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
    axis.set_minor_locator(NullLocator())


def milliseconds(value: float, _: object = None) -> str:
    """A tick of a latency axis: ``5 ms``, ``2 s``."""
    return f"{value / 1000:,g} s" if value >= 1000 else f"{value:g} ms"


def printable(text: str) -> str:
    """``text`` with a question mark for whatever XML could not hold."""
    return "".join(character if character.isprintable() else "?" for character in text)


def to_svg(figure: "Figure", title: str, description: str) -> str:
    """The figure as an ``<svg>`` for the middle of an HTML page.

    It has no XML namespace and no ids, numbers of one decimal, fonts of the page, colours by role, and ``title`` and
    ``description`` for those who do not see it. An artist whose gid is ``series:NAME`` shows NAME under the pointer.
    Nothing is clipped: what is drawn must lie inside the axes.
    """
    for artist in figure.findobj():
        artist.set_clip_on(False)
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())
    shapes = {element.attrib.get("id", ""): element.attrib.get("d", "") for element in root.iter(f"{_SVG}path")}
    _simplify(root, shapes)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": f"{title}. {description}"}
    return with_roles(ElementTree.tostring(root, encoding="unicode"))


def _simplify(element: ElementTree.Element, shapes: Mapping[str, str]) -> None:
    """Rewrites what is below ``element``, which is mutated. ``shapes`` goes from id to the outline that marks share."""
    for child in list(element):
        if child.tag == f"{_SVG}use":
            _inline_mark(child, shapes)
        _simplify(child, shapes)
        name = child.tag.removeprefix(_SVG)
        is_empty = name == "g" and not len(child)
        is_unseen = name == "path" and (child.attrib.get("d") in _POINTS or child.attrib.get("style") == "fill: none")
        if name in _NEEDLESS or is_empty or is_unseen:
            element.remove(child)
    element.tag = element.tag.removeprefix(_SVG)
    element.text, element.tail = element.text.strip() if element.text else None, None
    series = element.attrib.pop("id", "")
    element.attrib = {name: text for name, value in element.attrib.items() if (text := _shorten(name, value))}
    if series.startswith(SERIES):
        title = ElementTree.Element("title")
        title.text = series.removeprefix(SERIES)
        element.insert(0, title)


def _inline_mark(element: ElementTree.Element, shapes: Mapping[str, str]) -> None:
    """Turns a reference to a shared outline into a path of its own, so that no ids are left to clash on a page."""
    x, y = element.attrib.pop("x"), element.attrib.pop("y")
    element.tag = f"{_SVG}path"
    element.attrib["d"] = shapes[element.attrib.pop(_HREF).removeprefix("#")]
    element.attrib["transform"] = f"translate({x} {y})"


def _shorten(name: str, value: str) -> str:
    if name in _GEOMETRY:
        value = _NUMBER.sub(lambda match: f"{float(match.group()):.1f}".removesuffix(".0"), value)
    value = _NO_ROTATION.sub("", _FONT_FAMILY.sub("", value))
    return " ".join(value.split()).removesuffix(";")
