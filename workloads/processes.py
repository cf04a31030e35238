"""Arrival processes by the name the command line gives them."""

import math
from collections.abc import Callable
from pathlib import Path

from libra.errors import LibraError
from libra.registry import Registry
from workloads.arrivals import ArrivalProcess, Renewal
from workloads.azure_functions import AzureFunctions

# (what follows the colon, burstiness) -> process
ARRIVALS: Registry[Callable[[str, float], ArrivalProcess]] = Registry("arrival process")


def parse_arrivals(spec: str, burstiness: float = 1.0) -> ArrivalProcess:
    """The process of ``poisson``, ``gamma:CV`` or ``azure-functions:FILE[@START_MINUTE]``; else raises LibraError."""
    name, _, argument = spec.partition(":")
    return ARRIVALS[name](argument, burstiness)


def _poisson(argument: str, burstiness: float) -> ArrivalProcess:
    if argument:
        raise LibraError(f"--arrivals poisson:{argument}: poisson takes no value; write gamma:CV for burstier gaps")
    return Renewal(burstiness)


def _gamma(argument: str, burstiness: float) -> ArrivalProcess:
    try:
        cv = float(argument)
    except ValueError:
        cv = math.nan
    if not 0 <= cv < math.inf:
        raise LibraError(f"--arrivals gamma:{argument}: write gamma:CV with the gaps' coefficient of variation")
    if burstiness != 1.0:
        raise LibraError("--arrivals gamma:CV sets the burstiness (CV ** -2) already; leave out --burstiness")
    return Renewal(math.inf if cv == 0 else cv**-2)


def _azure_functions(argument: str, burstiness: float) -> ArrivalProcess:
    if not argument:
        raise LibraError("--arrivals azure-functions needs a file: write azure-functions:FILE")
    path, at, minute = argument.rpartition("@")
    if at and minute.isdecimal():
        return AzureFunctions(Path(path), burstiness, int(minute))
    return AzureFunctions(Path(argument), burstiness)


ARRIVALS.add("poisson", _poisson)
ARRIVALS.add("gamma", _gamma)
ARRIVALS.add("azure-functions", _azure_functions)
