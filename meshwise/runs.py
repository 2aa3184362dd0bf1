"""Runs that a user has measured, from files: what `validate --json` printed, or a plan file and its step time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from meshwise import asking, jobfile
from meshwise.asking import Asked
from profiles import catalog
from profiles.files import BadFile, check_writable, read_table, validated, write_whole
from profiles.writer import to_toml
from validate.calibration.fit import Origin
from validate.calibration.recalibrate import STEP, Observation, Recalibration, observed_parts, recalibrate
from validate.logs.profile import measured_spec


@dataclass(frozen=True, slots=True)
class _Run:
    asked: Asked
    observation: Observation


def recalibrate_from(
    files: list[Path], output: Path, *, cluster: str | None, step_seconds: float | None, overwrite: bool
) -> Recalibration:
    """Write the profile that the runs in `files` were planned on, or `cluster`, changed by what they measured.

    `step_seconds` is that of a plan file; what `validate --json` printed states its own. Raises ValueError when a file
    is neither, when the runs were planned on several clusters and none is named, or `output` cannot be written.
    """
    check_writable(output, overwrite, (".toml",))
    runs = [_read(path, cluster, step_seconds) for path in files]
    names = {str(run.asked.question.table.cluster) for run in runs}
    if len(names) > 1:
        raise ValueError(f"cluster: the runs are of {' and '.join(sorted(names))}; name the one to change (--cluster)")
    spec = catalog.cluster_spec(names.pop())
    today = date.today().isoformat()
    told = ", ".join(run.observation.name for run in runs)
    origin = Origin(runs[0].asked.question.alike("calibrate").accelerator.name, today, f"measured steps ({told})")
    found = recalibrate(spec, [run.observation for run in runs], origin)
    write_whole(output, to_toml(measured_spec(found.spec, origin, {})), overwrite)
    return found


def _read(path: Path, cluster: str | None, step_seconds: float | None) -> _Run:
    table = _document(path)
    if "measured" not in table:
        if step_seconds is None:
            raise ValueError(
                f"{path}: is no output of `meshwise validate --json`; with a plan file, say how long its step took "
                "(--step-seconds)"
            )
        asked = asking.plan_question(path, {"cluster": cluster} if cluster else {}, {})
        return _Run(asked, _observation(path, asked, {STEP: step_seconds}, {}))
    if step_seconds is not None:
        raise ValueError(f"--step-seconds: {path} states its own measured step; leave it out")
    asked = _asked(path, table, cluster)
    try:
        measured = table["measured"]
        parts = observed_parts({str(name): float(value) for name, value in measured["breakdown_seconds"].items()})
        parts[STEP] = float(measured["step_seconds"])
        return _Run(asked, _observation(path, asked, parts, measured))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{path}: measured has no whole breakdown_seconds and step_seconds ({error})") from None


def _document(path: Path) -> dict[str, Any]:
    """The table of a file; a comparison that was printed with a name of its own ending is read as JSON too."""
    if path.suffix.lower() in (".toml", ".json"):
        return read_table(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise BadFile(f"{path}: neither the output of `meshwise validate --json` nor a plan file in .toml") from None
    return values if isinstance(values, dict) else {}


def _asked(path: Path, table: Mapping[str, Any], cluster: str | None) -> Asked:
    """The question that a comparison answers, asked again of the profile to change."""
    job = {name: value for name, value in table.get("job", {}).items()
           if name in jobfile.JobTable.model_fields and value is not None}  # fmt: skip
    split = {name: value for name, value in table.get("plan", {}).items() if name in jobfile.SplitTable.model_fields}
    changes = {"cluster": cluster} if cluster else {}
    file = validated(jobfile.JobFile, {"job": job | changes, "split": split}, path)
    question = jobfile.question(jobfile.devices_of(file))
    return Asked(question, jobfile.plan(file.split or jobfile.SplitTable(), question.cluster.num_devices))


def _observation(path: Path, asked: Asked, seconds: Mapping[str, float], measured: Mapping[str, Any]) -> Observation:
    if not seconds[STEP] > 0.0:
        raise BadFile(f"{path}: a step takes a positive time, got {seconds[STEP]:g} s")
    question = asked.question
    noise = float(measured.get("noise_fraction") or 0.0)
    return Observation(path.name, question.job, asked.plan, question.stack, seconds, noise)
