"""Numbers as a person reads them in a narrow column."""

import math

MISSING = "–"
_LARGE = ((1e9, "G"), (1e6, "M"))


def compact(value: float | None) -> str:
    """About three significant digits: 0.123, 4.56, 78.9, 12,345, 6.79M. A missing value is a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    for unit, letter in _LARGE:
        if abs(value) >= unit:
            return f"{value / unit:.2f}{letter}"
    places = _decimals(value)
    return f"{0.0 if round(value, places) == 0 else value:,.{places}f}"  # never -0.000


def half_width(value: float, half: float) -> str:
    """``±13``, with the decimals and the unit letter that ``compact`` gives ``value``."""
    for unit, letter in _LARGE:
        if abs(value) >= unit:
            return f"±{half / unit:.2f}{letter}"
    return f"±{half:,.{_decimals(value)}f}"


def with_interval(value: float | None, half: float | None) -> str:
    """``412 ±13``; the value alone without an interval, or where there is nothing to spread."""
    if value is None or half is None or not math.isfinite(value) or value == half == 0:
        return compact(value)
    return f"{compact(value)} {half_width(value, half)}"


def times(quotient: float | None) -> str:
    """A ratio: ``0.49x``, ``12.3x``."""
    if quotient is None or not math.isfinite(quotient):
        return MISSING
    return f"{quotient:.2f}x" if 0.01 <= quotient < 10 else f"{compact(quotient)}x"


def count(value: float | None) -> str:
    """A whole number where it is one: request counts are not 12.0."""
    if value is not None and math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return compact(value)


def clock(duration_s: float) -> tuple[int, str]:
    """The unit of a time axis that is ``duration_s`` long: its seconds and its name."""
    if duration_s <= 300:
        return 1, "s"
    return (60, "min") if duration_s <= 3 * 3600 else (3600, "h")


def _decimals(value: float) -> int:
    size = abs(value)
    if size == 0 or size >= 99.95:
        return 0
    return 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
