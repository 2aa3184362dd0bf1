"""`calibrate --from-run`: measured serving runs, or logs of requests, fix the constants of their engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from meshwise import screen
from meshwise.calibrating import Target
from meshwise.tables.serving_log import TITLES
from planner.cost.serving import PriceBook
from profiles.engine import EngineRecord
from profiles.files import check_writable, write_whole
from profiles.writer import to_toml
from validate.score.serving.fit_engine import fit_engine, log_errors, timed_settings
from validate.score.serving.fit_log import LogFit, fit_logs
from validate.score.serving.log import read_log
from validate.score.serving.log_files import is_log
from validate.score.serving.resolve import ServedSetting
from validate.score.serving.table import read_rows

MOST_ROWS = 24
MOST_TIMES_OFF = 20.0
"""A run that differs from its prediction by more was not taken as it says."""


@dataclass(frozen=True, slots=True)
class EngineCalibration:
    """A record of one's own, and how far both are from the runs: mean absolute errors of TTFT and TPOT."""

    engine: EngineRecord
    base: EngineRecord
    num_runs: int
    before: tuple[float, float]
    after: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """The document of --json."""
        return {
            "engine": self.engine.model_dump(mode="json", exclude_defaults=True),
            "base": self.base.name,
            "num_runs": self.num_runs,
            "before": dict(zip(("ttft", "tpot"), self.before, strict=True)),
            "after": dict(zip(("ttft", "tpot"), self.after, strict=True)),
        }


def is_table(path: Path) -> bool:
    """Whether a file of --from-run is a table of serving runs rather than a training run."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def calibrate_engine(tables: Sequence[Path], output: Path, *, overwrite: bool) -> EngineCalibration:
    """Fit the constants of the engine that the rows name, and write the record.

    Raises ValueError when no row can be modelled, or rows name engines of several records.
    """
    check_writable(output, overwrite, (".toml",))
    settings = timed_settings([row for table in tables for row in read_rows(table)])
    names = sorted({one.engine.name for one in settings})
    if not names:
        raise ValueError(f"from-run: {tables[0]} has no closed-loop run with ttft_ms and tpot_ms that can be modelled")
    if len(names) > 1:
        raise ValueError(f"from-run: the runs are of several engine records ({', '.join(names)}); give those of one")
    base = settings[0].engine
    chosen = settings[:: -(-len(settings) // MOST_ROWS)]
    _refuse_other_units(base, chosen)
    fitted = fit_engine(base, chosen)
    fitted_to = f"constants fitted to {len(chosen)} measured runs of {tables[0].name} on {date.today()}"
    source = f"{fitted_to}; all else: {base.source}"
    engine = fitted.model_copy(update={"name": output.stem, "source": source, "fit": None})
    write_whole(output, to_toml(engine), overwrite)
    return EngineCalibration(engine, base, len(chosen), _errors(base, chosen), _errors(engine, chosen))


def _refuse_other_units(base: EngineRecord, settings: Sequence[ServedSetting]) -> None:
    """Raise ValueError for a run so far off that it is in seconds, or of something else."""
    book = PriceBook()
    for one in settings:
        for column, error in zip(("ttft_ms", "tpot_ms"), log_errors(one, base, book), strict=True):
            if abs(error) > np.log(MOST_TIMES_OFF):
                factor = f"{np.exp(abs(error)):,.0f} times {'below' if error > 0.0 else 'above'} what is predicted"
                raise ValueError(
                    f"from-run: {column} of {one.row.id} is {factor}; is it in ms, and of this deployment?"
                )


def holds_requests(path: Path) -> bool:
    """Whether a file of --from-run is a log of single requests."""
    return is_log(path)


def calibrate_from_logs(paths: Sequence[Path], output: Path, cluster: str | None, *, overwrite: bool) -> LogFit:
    """Fit the constants of an engine and of its kernels on one kind of machine to logs, and write the record.

    Raises ValueError when a log cannot be read, or logs are of several releases or kinds of machines.
    """
    check_writable(output, overwrite, (".toml",))
    logs = [read_log(path, cluster) for path in paths]
    for what, found in (
        ("engine records", {log.engine.name for log in logs}),
        ("accelerators", {log.cluster.accelerator.name for log in logs}),
    ):
        if len(found) > 1:
            raise ValueError(
                f"from-run: the logs are of several {what} ({', '.join(sorted(found))}); give those of one"
            )
    base, machine = logs[0].engine, logs[0].cluster.accelerator.name
    fit = fit_logs(base, logs)
    requests = sum(len(log.asked) for log in logs)
    source = f"constants fitted to {requests} requests on {machine} on {date.today()}; all else: {base.source}"
    engine = fit.engine.model_copy(update={"name": output.stem, "source": source, "fit": None})
    write_whole(output, to_toml(engine), overwrite)
    return replace(fit, engine=engine)


def read_logs(files: Sequence[Path], target: Target, step_seconds: float | None) -> int:
    """Fit an engine record to logs of requests, and say how much nearer it is, and to requests it had not seen."""
    if step_seconds is not None:
        raise ValueError(f"--step-seconds: {step_seconds} is not needed; a log of requests says how long each took")
    found = calibrate_from_logs(files, target.output, target.cluster, overwrite=target.overwrite)
    if target.as_json:
        screen.print_json({"output": str(target.output), **found.as_dict()})
        return 0
    console = screen.console()
    unseen = "each log by the others" if len(files) > 1 else "the later half by the first"
    console.print(f"mean times, error before -> after ({unseen})", markup=False)
    for name, title in TITLES.items():
        line = f"{found.before[name]:.1%} -> {found.after[name]:.1%} ({found.held_out[name]:.1%})"
        console.print(f"  {title:22} {line}", markup=False)
    factors = ", ".join(f"{kind} {factor:.2f}" for kind, factor in found.engine.time_factors.items())
    console.print(f"time of kernels over their library's price: {factors}", markup=False)
    console.print(f"wrote {target.output}; name it as engine in a job, or score another log by it", markup=False)
    return 0


def _errors(engine: EngineRecord, settings: Sequence[ServedSetting]) -> tuple[float, float]:
    book = PriceBook()
    errors = np.abs(np.expm1([log_errors(one, engine, book) for one in settings])).mean(axis=0)
    return float(errors[0]), float(errors[1])


def read_serving_runs(files: Sequence[Path], target: Target, step_seconds: float | None) -> int:
    """Fit an engine record to tables of serving runs, and say how much nearer it is."""
    for option, value in (("cluster", target.cluster), ("step-seconds", step_seconds)):
        if value is not None:
            raise ValueError(f"--{option}: {value} is not needed; a table of serving runs says what ran, and how long")
    found = calibrate_engine(files, target.output, overwrite=target.overwrite)
    if target.as_json:
        screen.print_json({"output": str(target.output), **found.as_dict()})
        return 0
    console, names = screen.console(), ("time to first token", "time per output token")
    runs = f"{found.num_runs} run{'s' if found.num_runs > 1 else ''}"
    console.print(f"engine {found.base.name}, {runs}: mean error before -> after", markup=False)
    for name, before, after in zip(names, found.before, found.after, strict=True):
        console.print(f"  {name:22} {before:.1%} -> {after:.1%}", markup=False)
    console.print(f"wrote {target.output}; name it as engine in a serving job", markup=False)
    return 0
