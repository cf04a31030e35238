"""Devices on which an engine here runs for real."""

from libra.errors import LibraError


def check_measurable(device: str) -> None:
    """Raises LibraError for a device that no engine here runs on for real."""
    if device == "cuda":
        raise LibraError("--device cuda: the engine on CUDA is not built yet; use --device cpu")
    if device != "cpu":
        raise LibraError(f"--device {device}: only a real device can be measured; use --device cpu")
