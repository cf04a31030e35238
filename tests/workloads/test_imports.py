"""What the package may import."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_workloads_load_neither_engines_nor_torch_nor_pandas() -> None:
    script = (
        "import sys, pkgutil, importlib, workloads\n"
        "for module in pkgutil.iter_modules(workloads.__path__):\n"
        "    importlib.import_module('workloads.' + module.name)\n"
        "print(*sorted(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = result.stdout.split()
    heavy = {name for name in loaded if name.split(".")[0] in ("torch", "pandas", "bench", "baselines")}
    assert heavy == set()
    libra = {
        name for name in loaded if name.startswith("libra.") and name.split(".")[1] in ("engine", "cache", "model")
    }
    assert libra == set()
