"""SGLang's load generator without SGLang's start: ``python sglang_bench.py --backend sglang-oai ...``, its own flags.

Run by a Python with the wheel ``sglang`` (0.5.23, without its dependencies) and what the generator imports; the
package's own start wants a GPU's libraries, of which a client has no use. ``sglang.benchmark.serving`` is as shipped.
"""

import importlib.util
import runpy
import sys
import types


def main() -> None:
    found = importlib.util.find_spec("sglang")
    if found is None or found.submodule_search_locations is None:
        sys.exit("error: this Python has no package sglang; install its wheel (pip install --no-deps sglang)")
    package = types.ModuleType("sglang")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["sglang"] = package
    # All that the generator wants of a module that loads the engine.
    disaggregation = types.ModuleType("sglang.srt.disaggregation.utils")
    vars(disaggregation)["FAKE_BOOTSTRAP_HOST"] = "2.2.2.2"
    sys.modules[disaggregation.__name__] = disaggregation
    runpy.run_module("sglang.benchmark.serving", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
