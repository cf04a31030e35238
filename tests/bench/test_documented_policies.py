"""The policies written out in README.md and docs/howto.md run as they stand there."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app

ROOT = Path(__file__).parents[2]
LOAD = ("--workload", "chatbot", "--num-loras", "8", "--duration", "40", "--request-rate", "4", "--hbm-cache-gib", "1")

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="this is no checkout: docs/ is not there")


@pytest.mark.parametrize(("page", "name"), [("README.md", "big_first"), ("docs/howto.md", "paid_first")])
def test_a_documented_policy_finishes_every_request(tmp_path: Path, page: str, name: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "written.py"
    file.write_text(code, encoding="utf-8")
    result = CliRunner().invoke(app, ["bench", *LOAD, "--policy", f"fastlibra,{file}:{name}", "--disable-tqdm"])
    assert result.exception is None, result.output
    policies = json.loads(result.stdout.splitlines()[-1])["policies"]
    ours, published = policies[name.replace("_", "-")], policies["fastlibra"]
    assert ours["completed"] == published["completed"] > 0
    # It ranks, and otherwise than the published model does.
    assert ours["mean_ttft_ms"] != published["mean_ttft_ms"]
