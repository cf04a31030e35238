"""The page in headless Chromium: it renders without a word on the console, on a phone, on a desk and on paper."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from bench.report.render import write_report
from bench.slo import Objectives
from tests.bench.fabricate import POLICIES, plausible_run
from tests.bench.report.pages import save

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--allow-file-access-from-files"),
)
WIDTHS = (320, 390, 768, 1280)
# Loads the report in a frame of each width and then states how wide its content came out and what is drawn outside.
MEASURE = """
<!doctype html><title>measure</title>%s
<script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument;
    const broken = [...page.querySelectorAll("svg text")].filter((text) => text.getBoundingClientRect().width === 0);
    const charts = page.querySelectorAll("svg[role=img]").length;
    return [frame.clientWidth, page.documentElement.scrollWidth, charts, broken.length];
  });
  document.body.innerHTML = "<pre>" + JSON.stringify(found) + "</pre>";
});
</script>
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs with all six policies, one of them saturated."""
    folder = tmp_path_factory.mktemp("browser")
    limits = Objectives(ttft=500.0)
    runs = [
        save(
            folder / f"r{rate:g}",
            [plausible_run(style, seed, 100, rate) for style in POLICIES for seed in (0, 1)],
            rate=rate,
            objectives=limits,
            warnings=["adapters were drawn"],
        )
        for rate in (5.0, 7.0)
    ]
    path = folder / "report.html"
    write_report(path, runs)
    return path


def browse(folder: Path, page: Path, *flags: str) -> tuple[str, list[str]]:
    """What Chromium prints, and what the page and its browser said on the console."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=folder)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_console_stays_silent_and_a_picture_is_drawn(report: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name, size in (("phone", (390, 844)), ("desktop", (1280, 900))):
        picture = tmp_path / f"{name}.png"
        _, console = browse(tmp_path, report, f"--screenshot={picture}", f"--window-size={size[0]},{size[1]}")
        assert console == []
        with Image.open(picture) as image:
            assert image.size == size
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 100


def test_a_page_with_faults_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "faulty.html"
    page.write_text("<!doctype html><script>missing()</script><img src='http://127.0.0.1:9/x.png'>")
    _, console = browse(tmp_path, page, "--dump-dom")
    assert any("missing is not defined" in line for line in console)


def test_nothing_reaches_beyond_the_edge_at_any_width(report: Path, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe src="{escape(report.as_uri())}" style="border:0;width:{width}px;height:800px"></iframe>'
        for width in WIDTHS
    )
    page = tmp_path / "measure.html"
    page.write_text(MEASURE % frames)
    dom, console = browse(tmp_path, page, "--dump-dom", "--virtual-time-budget=5000")
    assert console == []
    found = re.search(r"<pre>(.*?)</pre>", dom)
    assert found is not None, dom[:500]
    for width, (frame_width, page_width, num_charts, num_empty_labels) in zip(
        WIDTHS, json.loads(found[1]), strict=True
    ):
        assert frame_width == width
        assert page_width <= width
        # Two of curves, then per run 3 of latency, 3 of hit rates and 6 of memory.
        assert num_charts == 3 + 2 * 12
        assert num_empty_labels == 0


def test_page_prints(report: Path, tmp_path: Path) -> None:
    paper = tmp_path / "report.pdf"
    _, console = browse(tmp_path, report, f"--print-to-pdf={paper}")
    assert console == []
    assert paper.read_bytes().startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type /Page\b", paper.read_bytes())) <= 16
