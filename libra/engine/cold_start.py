"""How long a prefill step takes whose adapters are still on their way to HBM (simulation).

A step that takes C seconds when everything is there spends C / L on each of L layers.

*By layer* (``adapter_load: by_layer``). Weights come in the order of the layers at an even rate, from ``first_s`` to
``last_s``; the step waits before a layer whose weights are not there. Layer l cannot end before its weights are there
and the layers from it on are computed; that is linear in l, so only the first and the last layer matter.

*CPU-assisted* (``cold_start: cpu_assist``; CaraServe, arXiv 2401.11240; Toppings, ATC 2025). Layers form M groups; the
weights of groups 2 to M come first and those of group 1 last. A group whose weights are there takes C / M. For another
the adapter's product is computed on CPU cores while the GPU computes the rest, max(C / M, product), and handed over
layer by layer; where its weights would be there sooner than that, the step waits for them instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

from libra.engine.link import Arrival

LAYER_GROUPS = 8


class ColdAdapter(NamedTuple):
    """An adapter of a step's prefill that is still coming. ``cpu_s``: the time of its product for the step's tokens on
    CPU cores, handing over included; None when nothing but waiting helps."""

    arrival: Arrival
    cpu_s: float | None


def step_end_s(now_s: float, step_s: float, num_layers: int, cold: Sequence[ColdAdapter]) -> float:
    """When a step that starts at ``now_s`` ends, if it takes ``step_s`` with all adapters there."""
    waited_for = [adapter.arrival for adapter in cold if adapter.cpu_s is None]
    end_s = now_s + step_s
    for arrival in waited_for:
        end_s = max(end_s, first_layer_s(arrival, num_layers) + step_s, arrival.last_s + step_s / num_layers)
    assisted = [(adapter.arrival, adapter.cpu_s) for adapter in cold if adapter.cpu_s is not None]
    return max(end_s, _assisted_end_s(now_s, step_s, assisted))


def _assisted_end_s(now_s: float, step_s: float, cold: list[tuple[Arrival, float]]) -> float:
    end_s, group_s = now_s, step_s / LAYER_GROUPS
    for group in range(LAYER_GROUPS):
        # Group 0 comes last, group g > 0 as the g-th of all.
        share = (group or LAYER_GROUPS) / LAYER_GROUPS
        there_s = [arrival.first_s + share * (arrival.last_s - arrival.first_s) for arrival, _ in cold]
        late = [position for position, arrives_s in enumerate(there_s) if arrives_s > end_s]
        assisted_s = max(group_s, sum(cold[position][1] for position in late) / LAYER_GROUPS)
        waited_s = max((there_s[position] for position in late), default=end_s) - end_s + group_s
        end_s += min(assisted_s, waited_s) if late else group_s
    return end_s


def first_layer_s(arrival: Arrival, num_layers: int) -> float:
    """When the weights of the first of ``num_layers`` layers are there."""
    return arrival.first_s + (arrival.last_s - arrival.first_s) / num_layers
