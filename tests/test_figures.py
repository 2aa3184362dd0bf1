"""The figures of docs/physics.md are those that docs/tools/figures.py draws."""

import re
from pathlib import Path

import pytest

from docs.tools.figures import FIGURES, FOLDER, draw
from tests.documents import ROOT


def test_the_page_shows_every_figure_there_is() -> None:
    shown = re.findall(r"images/physics/(\w+)\.svg", (ROOT / "docs" / "physics.md").read_text())
    assert sorted(shown) == sorted(FIGURES) == sorted(path.stem for path in FOLDER.iterdir())


@pytest.mark.slow
def test_every_figure_is_drawn_and_names_its_axes(tmp_path: Path) -> None:
    draw(tmp_path)
    for name in FIGURES:
        text = (tmp_path / f"{name}.svg").read_text()
        assert text.startswith("<?xml"), name
        assert text.count("<text") > 6, f"{name} lacks words"
        assert 'id="line2d_' in text or 'id="patch_' in text, f"{name} draws nothing"
