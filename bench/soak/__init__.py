"""A long run against `libra serve` with everything that clients do, good and bad: `python -m bench.soak`."""
