"""Arrival processes by the name the command line gives them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from libra.errors import LibraError
from libra.registry import Registry
from workloads.arrivals import ArrivalProcess, Renewal
from workloads.azure_functions import AzureFunctions
from workloads.drift import Drift
from workloads.modulated import OnOff, Ramp
from workloads.servegen import ServeGenClients

# (what follows the colon, burstiness) -> process
ARRIVALS: Registry[Callable[[str, float], ArrivalProcess]] = Registry("arrival process")


def parse_arrivals(spec: str, burstiness: float = 1.0, lag_s: float = 0.0) -> ArrivalProcess:
    """The process of a spec, in one of the forms of workloads.demand.ARRIVAL_FORMS; else raises LibraError.

    ``burstiness`` is the Gamma shape of the gaps, also where the rate changes with time. ``lag_s`` is how long after
    the start of its session an average request comes.
    """
    name, _, argument = spec.partition(":")
    process = ARRIVALS[name](argument, burstiness)
    # A ramp alone has a trend, so that what comes later comes at another rate.
    return replace(process, lag_s=lag_s) if isinstance(process, Ramp) else process


def _poisson(argument: str, burstiness: float) -> ArrivalProcess:
    if argument:
        raise LibraError(f"--arrivals poisson:{argument}: poisson takes no value; write gamma:CV for burstier gaps")
    return Renewal(burstiness)


def _gamma(argument: str, burstiness: float) -> ArrivalProcess:
    (cv,) = _numbers("gamma", argument, "gamma:CV with the gaps' coefficient of variation", 1)
    if burstiness != 1.0:
        raise LibraError("--arrivals gamma:CV sets the burstiness (CV ** -2) already; leave out --burstiness")
    return Renewal(math.inf if cv == 0 else cv**-2)


def _on_off(argument: str, burstiness: float) -> ArrivalProcess:
    form = "onoff:ON_S,OFF_S or onoff:ON_S,OFF_S,RATIO, such as onoff:10,50,20"
    on_s, off_s, *ratio = _numbers("onoff", argument, form, 2, 3)
    return OnOff(on_s, off_s, ratio[0] if ratio else math.inf, burstiness)


def _ramp(argument: str, burstiness: float) -> ArrivalProcess:
    first, last = _numbers("ramp", argument, "ramp:FROM,TO, such as ramp:1,3; --request-rate is the mean", 2)
    return Ramp(first, last, burstiness)


def _drift(argument: str, burstiness: float) -> ArrivalProcess:
    (period_s,) = _numbers("drift", argument, "drift:PERIOD_S with the mean time an adapter keeps its popularity", 1)
    return Drift(period_s, burstiness)


def _azure_functions(argument: str, burstiness: float) -> ArrivalProcess:
    if not argument:
        raise LibraError("--arrivals azure-functions needs a file: write azure-functions:FILE")
    path, at, minute = argument.rpartition("@")
    if at and minute.isdecimal():
        return AzureFunctions(Path(path), burstiness, int(minute))
    return AzureFunctions(Path(argument), burstiness)


def _servegen(argument: str, burstiness: float) -> ArrivalProcess:
    if not argument:
        raise LibraError("--arrivals servegen needs the folder of a model's clients: write servegen:DIR")
    if burstiness != 1.0:
        raise LibraError("--arrivals servegen has the gaps that were fitted to each client; leave out --burstiness")
    path, at, start_s = argument.rpartition("@")
    if at and start_s.isdecimal():
        return ServeGenClients(Path(path), float(start_s))
    return ServeGenClients(Path(argument))


def _numbers(name: str, argument: str, form: str, *counts: int) -> list[float]:
    """The finite numbers of 0 or more in ``argument``, as many as one of ``counts``; else raises LibraError."""
    try:
        numbers = [float(part) for part in argument.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts or not all(0 <= number < math.inf for number in numbers):
        raise LibraError(f"--arrivals {f'{name}:{argument}'.rstrip(':')}: write {form}")
    return numbers


ARRIVALS.add("poisson", _poisson)
ARRIVALS.add("gamma", _gamma)
ARRIVALS.add("onoff", _on_off)
ARRIVALS.add("ramp", _ramp)
ARRIVALS.add("drift", _drift)
ARRIVALS.add("azure-functions", _azure_functions)
ARRIVALS.add("servegen", _servegen)
