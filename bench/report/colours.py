"""Colours by role. A chart names a role; style.css gives each its colour in light, dark and print."""

import re

# Series are Okabe and Ito's colours, which people with any colour vision tell apart; style.css states them.
NUM_SERIES = 8
ROLES = (
    *("ink", "muted", "grid", "track", "surface", "limit"),
    *("queue", "adapter-load", "kv-load", "prefill"),
    *("adapters", "history", "invalid", "running", "in-flight"),
    *("hit", "host-hit", "cold"),
    *(f"series-{index}" for index in range(NUM_SERIES)),
)
# Stand-ins that matplotlib takes for colours and nothing else of a page looks like.
_STAND_INS = {role: f"#fe{index:04x}" for index, role in enumerate(ROLES)}
_ROLE_OF = {stand_in: role for role, stand_in in _STAND_INS.items()}
_STAND_IN = re.compile(r"#fe[0-9a-f]{4}")

# A second mark beside colour: dash patterns (on, off, ... in px) of lines, so that grey print tells them apart.
_DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (6, 2),
    (2, 1.6),
    (8, 2, 2, 2),
    (4, 3),
    (10, 2, 2, 2, 2, 2),
    (1, 2),
    (12, 3),
)


def colour(role: str) -> str:
    """What to hand matplotlib for ``role``. Raises KeyError for a role that style.css does not know."""
    return _STAND_INS[role]


def with_roles(text: str) -> str:
    """SVG text with every stand-in replaced by the CSS variable of its role."""
    return _STAND_IN.sub(lambda match: f"var(--{_ROLE_OF[match.group()]})", text)


def series_role(index: int) -> str:
    """The role of the ``index``-th policy."""
    return f"series-{index % NUM_SERIES}"


def series_dashes(index: int) -> tuple[float, ...]:
    """The dash pattern of the ``index``-th policy; another one for each round through the colours."""
    return _DASHES[(index + index // NUM_SERIES) % len(_DASHES)]
