"""Whatever is in a file, the answer is a table or one sentence that names the file."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from profiles.files import MAX_FILE_BYTES, BadFile, check_writable, explain, read_table, validated, write_whole


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_toml_and_json_are_read(tmp_path: Path) -> None:
    assert read_table(_written(tmp_path, "a.toml", b"x = 1\n[y]\nz = 'w'")) == {"x": 1, "y": {"z": "w"}}
    assert read_table(_written(tmp_path, "a.json", b'{"x": [1, 2]}')) == {"x": [1, 2]}
    assert read_table(_written(tmp_path, "A.JSON", b"{}")) == {}


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("a.toml", b"x = 1\ny = = 2\n", "not valid TOML: .*line 2"),
        ("a.toml", b"x = 1\nx = 2\n", "not valid TOML: .*line 2"),
        ("a.json", b'{"x": 1,\n "y": }', "not valid JSON: .*line 2"),
        ("a.json", b"", "not valid JSON: .*line 1"),
        ("a.json", b"[1, 2]", "expected an object .* got list"),
        ("a.json", b"[" * 100_000, "not valid JSON: nested too deeply"),
        ("a.json", b'{"x": ' + b"9" * 5000 + b"}", "not valid JSON: .*digits"),
        ("a.toml", b"x = " + b"9" * 5000, "not valid TOML: .*digits"),
        ("a.toml", b"\xff\xfe\x00", "not UTF-8 text"),
        ("a.toml", b"x = '" + b"y" * MAX_FILE_BYTES + b"'", "at most 8,388,608"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, data: bytes, fault: str) -> None:
    path = _written(tmp_path, name, data)
    with pytest.raises(BadFile, match=fault) as raised:
        read_table(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(10 * MAX_FILE_BYTES)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("the file was opened"))
    with pytest.raises(BadFile, match="at least 83,886,080 bytes"):
        read_table(path)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(BadFile, match="at most"):
        read_table(Path("/dev/zero"))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none\.toml: cannot be read: No such file"):
        read_table(tmp_path / "none.toml")
    with pytest.raises(BadFile, match="cannot be read: Is a directory"):
        read_table(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), suffix=st.sampled_from([".toml", ".json"]))
def test_any_bytes_are_a_table_or_one_fault(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = _written(tmp_path, f"any{suffix}", data)
    with contextlib.suppress(BadFile):
        assert isinstance(read_table(path), dict)


class Inner(BaseModel, extra="forbid"):
    size: int = Field(gt=0)


class Outer(BaseModel, extra="forbid"):
    name: str
    parts: list[Inner] = []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "name is missing"),
        ({"name": "x", "nme": 1}, "nme is not a field here"),
        ({"name": "x", "parts": [{"size": -1}]}, "parts.0.size must be greater than 0, got -1"),
        ({"name": "x", "parts": [{"size": "many"}]}, "parts.0.size must be a valid integer, .* got 'many'"),
        ({"name": "x", "parts": 3}, "parts must be a valid list, got 3"),
        ({"name": {"a": 1}}, "name must be a valid string, got a table"),
        ({"name": [1] * 1000}, "name must be a valid string, got a list"),
        ({"name": 10**5000}, "name must be a valid string, got a value of type int"),
    ],
)
def test_a_fault_names_field_value_and_what_would_be_right(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadFile, match=f"^job.toml: {sentence}"):
        validated(Outer, values, "job.toml")


def test_many_faults_are_counted() -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"name": "x", "parts": [{"size": 0}] * 7})
    sentence = explain(raised.value)
    assert sentence.count("must be greater than 0") == 4
    assert sentence.endswith("and 3 more")


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"name": "x", "parts": [{"size": "y" * 10_000}]})
    assert len(explain(raised.value)) < 300


def test_a_file_is_written_whole_and_alone(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.toml", "x = 1\n", overwrite=False)
    assert (tmp_path / "a.toml").read_text() == "x = 1\n"
    assert os.listdir(tmp_path) == ["a.toml"]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = _written(tmp_path, "a.toml", b"old")
    with pytest.raises(BadFile, match="exists already; give another name"):
        write_whole(path, "new", overwrite=False)
    assert path.read_text() == "old"
    write_whole(path, "new", overwrite=True)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.toml"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.toml", "x = 1\n", overwrite=False)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_is_said_beforehand(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is a folder; give a file name"):
        check_writable(tmp_path, overwrite=True)
    with pytest.raises(BadFile, match="there is no folder"):
        check_writable(tmp_path / "no" / "a.toml", overwrite=False)
    with pytest.raises(BadFile, match=r"must end in \.png or \.svg"):
        check_writable(tmp_path / "a.bmp", overwrite=False, endings=(".png", ".svg"))
