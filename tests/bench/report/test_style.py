"""Colours: every role has one, in light, dark and print, and people can tell and read them."""

import re
from itertools import combinations
from pathlib import Path

import pytest

import bench.report
from bench.report.colours import NUM_SERIES, ROLES, series_dashes, series_role

STYLE = (Path(bench.report.__file__).parent / "template" / "style.css").read_text(encoding="utf-8")
# Each place that states colours: light, dark, print.
PALETTES = [
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)
]


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_light_dark_and_print_give_every_role_a_colour() -> None:
    assert len(PALETTES) == 3
    assert PALETTES[0].keys() == PALETTES[1].keys() == PALETTES[2].keys()
    assert set(ROLES) <= PALETTES[0].keys()
    used = set(re.findall(r"var\(--([\w-]+)\)", STYLE))
    assert used <= PALETTES[0].keys()


@pytest.mark.parametrize("palette", PALETTES)
def test_text_is_readable_and_marks_stand_out(palette: dict[str, str]) -> None:
    for text in ("ink", "muted", "bad", "accent"):
        assert contrast(palette[text], palette["surface"]) >= 4.5
    for text in ("ink", "muted"):
        assert contrast(palette[text], palette["page"]) >= 4.5
    assert contrast(palette["good"], palette["good-surface"]) >= 4.5
    assert contrast(palette["bad"], palette["bad-surface"]) >= 4.5
    for index in range(NUM_SERIES):
        assert contrast(palette[series_role(index)], palette["surface"]) >= 2.5


def test_policies_differ_in_dashes_as_well_as_in_colour() -> None:
    marks = [(series_role(index), series_dashes(index)) for index in range(4 * NUM_SERIES)]
    assert len(set(marks)) == len(marks)
    assert all(one != other for one, other in combinations([dashes for _, dashes in marks[:NUM_SERIES]], 2))
