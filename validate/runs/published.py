"""Small tables of published runs that ship with the project: settings and figures as their sources print them."""

import tomllib
from importlib.resources import as_file, files

from pydantic import Field

from profiles.record import Count, Fraction, NonNegative, Record
from validate.runs.table import Run, read_runs
from validate.score.training import Score

PAPER = "sequence_parallelism_table5"
PUBLISHED = "published"
TABLES = {
    PAPER: (
        "Korthikanti et al. 2022, Reducing Activation Recomputation in Large Transformer Models, "
        "arXiv:2205.05198, table 5: iteration times on A100-80GB at tensor parallelism 8, without data parallelism"
    ),
    PUBLISHED: (
        "that table, and runs of 2021 to 2026 spread over the settings that nine public sources print (its source "
        "column cites each): step times, peak memory and failures"
    ),
}
"""Name -> citation."""


def published_runs(name: str) -> tuple[Run, ...]:
    """The runs of a shipped table; raises ValueError listing the tables when there is none called so."""
    if name not in TABLES:
        raise ValueError(f"published table {name!r} is not one of {', '.join(TABLES)}")
    stems = (PAPER, PUBLISHED) if name == PUBLISHED else (name,)
    return tuple(run for stem in stems for run in _read(stem))


def _read(stem: str) -> tuple[Run, ...]:
    with as_file(files("validate") / "data" / f"{stem}.csv") as path:
        return read_runs(path)


class Bands(Record):
    """How far the scores of the shipped table may go before something is wrong; fractions."""

    min_runs: Count
    time: dict[str, NonNegative]
    """By source, and "overall": the largest mean absolute error of the step."""
    memory: dict[str, NonNegative]
    """By reading: the largest mean absolute error of peak memory."""
    min_coverage_fraction: Fraction
    """Of error bars, over all runs."""
    max_regret_mean: NonNegative
    max_false_alarms: int = Field(ge=0)
    """Runs that fitted and are called too big."""
    max_skipped: int = Field(ge=0)


def shipped_bands() -> Bands:
    """The bands that ship beside the table."""
    return Bands(**tomllib.loads((files("validate") / "data" / "bands.toml").read_text(encoding="utf-8")))


def outside(score: Score, bands: Bands) -> list[str]:
    """What of a score lies outside the bands, one sentence each."""
    found = []

    def check(what: str, figure: float | None, limit: float, *, is_floor: bool = False) -> None:
        if figure is None or (figure < limit if is_floor else figure > limit):
            found.append(f"{what} is {figure}, {'at least' if is_floor else 'at most'} {limit} is the band")

    check("number of runs", score.overall.n, bands.min_runs, is_floor=True)
    groups = {"overall": score.overall, **score.by_source}
    for name, limit in bands.time.items():
        check(f"mean error of the step, {name},", groups[name].mape if name in groups else None, limit)
    for name, limit in bands.memory.items():
        check(f"mean error of memory, {name},", score.memory[name].mape if name in score.memory else None, limit)
    check("coverage of error bars", score.overall.coverage, bands.min_coverage_fraction, is_floor=True)
    check("mean regret", score.ranking.regret_mean, bands.max_regret_mean)
    check("number of false alarms", score.oom["false_positive"], bands.max_false_alarms)
    check("number of rows skipped", sum(score.skipped.values()), bands.max_skipped)
    return found
