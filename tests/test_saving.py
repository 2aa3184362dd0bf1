import os
from pathlib import Path

import pytest

from meshwise.saving import check_writable, write_whole


def test_a_file_is_written_whole_and_alone(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.toml", "x = 1\n", force=False)
    assert (tmp_path / "a.toml").read_text() == "x = 1\n"
    assert os.listdir(tmp_path) == ["a.toml"]


def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("old")
    with pytest.raises(ValueError, match="exists already; give another name, or --force"):
        write_whole(path, "new", force=False)
    assert path.read_text() == "old"
    write_whole(path, "new", force=True)
    assert path.read_text() == "new"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.toml", "x = 1\n", force=False)
    assert os.listdir(tmp_path) == []


def test_faults_are_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; give a file name"):
        check_writable(tmp_path, force=True)
    with pytest.raises(ValueError, match="there is no folder"):
        check_writable(tmp_path / "no" / "a.toml", force=False)
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        check_writable(tmp_path / "a.bmp", force=False, endings=(".png", ".svg"))
