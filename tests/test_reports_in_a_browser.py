"""Reports in a real browser: nothing is fetched, nothing overflows, tables sort, and text can be read and printed."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import pytest

from meshwise.report import assembling, writing
from tests import measured
from tests.cli import meshwise

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 390)
PRINTED_PIXELS = 1031
"""Of a page of A4 in landscape between margins of 12 mm."""
LEAST_CONTRAST = 4.5
"""Of text against what is behind it [WCAG 2.2, success criterion 1.4.3]."""
PROBE = Path(__file__).parent / "data" / "probe.js"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A page of a search, of a served load, and of a measurement."""
    folder = tmp_path_factory.mktemp("pages")
    small = ("--model", "gpt2", "--cluster", "dgx-a100", "--devices", "8", "--global-batch", "64")
    assert (
        meshwise("plan", *small, "--top", "6", "--pareto", "--scale", "4,8", "--report", folder / "plan.html").code == 0
    )
    assert meshwise("simulate", "examples/llama3-8b-chat.toml", "--report", folder / "served.html").code == 0
    question = measured.asked()
    report = assembling.find("validate")(question, measured.comparison(question), None)
    writing.write([folder / "measured.html"], report, False)
    return sorted(folder.glob("*.html"))


def browsed(page: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """What the probe finds in `page` at all widths, and what the browser says on its console."""
    text = page.read_text()
    printed = text.replace("@media print", "@media all")
    frames = [(f"w{width}", width, text) for width in WIDTHS] + [("print", PRINTED_PIXELS, printed)]
    markup = "".join(
        f'<iframe id="{name}" width="{width}" height="900" srcdoc="{escape(content)}"></iframe>'
        for name, width, content in frames
    )
    harness = page.with_name(f"probe-{page.stem}.htm")
    harness.write_text(f"<!DOCTYPE html><html><body>{markup}<script>{PROBE.read_text()}</script></body></html>")
    done = _chromium(*flags, "--dump-dom", "--virtual-time-budget=8000", harness.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), done.stderr


def _chromium(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_whole_and_can_be_read(pages: list[Path], dark: bool) -> None:
    for page in pages:
        found, told = browsed(page, *(["--blink-settings=preferredColorScheme=0"] if dark else []))
        assert "CONSOLE" not in told, f"{page.stem}: {told[-2000:]}"
        for name, frame in found.items():
            where = f"{page.stem}, {name}"
            assert frame["requests"] == [], where
            assert frame["overflow"] <= 0, f"{where}: wider than the page by {frame['overflow']} px"
            assert frame["unsorted"] == [], f"{where}: {frame['unsorted']}"
            assert frame["title"], where
            if name != "print":
                assert frame["isDark"] == dark, where
                assert frame["contrast"] >= LEAST_CONTRAST, f"{where}: {frame['faintest']}"


def test_printed_pages_cut_no_table(pages: list[Path]) -> None:
    for page in pages:
        found, _ = browsed(page)
        assert found["print"]["cut"] == [], f"{page.stem}: {found['print']['cut']}"


def test_a_page_prints(pages: list[Path], tmp_path: Path) -> None:
    printed = tmp_path / "printed.pdf"
    _chromium(f"--print-to-pdf={printed}", "--no-pdf-header-footer", pages[0].as_uri())
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 2
