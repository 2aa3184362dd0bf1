"""Options of `meshwise validate`: how plans are launched, swept and traced."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

_SWEEP, _TRACE = "A sweep of plans", "Counting without running"


@dataclass(frozen=True, slots=True)
class LaunchFlags:
    """How often and how long a plan runs."""

    nproc: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Ranks to start, in place of --devices.", show_default=False)
    ] = None
    launches: Annotated[int, typer.Option(min=1, max=100, help="Fresh starts whose median counts.")] = 4
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Timed steps of each start.")] = 10
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds one start may take.")] = 600.0
    oversubscribe: Annotated[
        bool,
        typer.Option("--oversubscribe", help="Start more ranks than cores: they take turns, in the prediction too."),
    ] = False
    append: Annotated[
        Path | None,
        typer.Option(metavar="TABLE.csv", help="Add what was measured to a table that `score training` reads."),
    ] = None

    def check(self, devices: int | None) -> None:
        """Raise ValueError when --nproc and --devices differ, or --append names something that is no table."""
        if self.nproc and devices not in (None, self.nproc):
            raise ValueError(f"--nproc: {self.nproc} ranks and --devices {devices} say two things; give one")
        if self.append:
            from validate.rows import check_table

            check_table(self.append)

    def with_devices(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The job's flags with as many devices as ranks are to start."""
        return {**job, "devices": self.nproc} if self.nproc else dict(job)


@dataclass(frozen=True, slots=True)
class SweepFlags:
    """Which plans a sweep runs, and where its answers go."""

    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Run every plan of the job that can run here; split options hold fields.",
                     rich_help_panel=_SWEEP),
    ] = False  # fmt: skip
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE,...", help="This plan, not every one; repeatable.", rich_help_panel=_SWEEP),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(help="A .json file for the answer; launches are kept beside it until it is there."),
    ] = None
    plot: Annotated[Path | None, typer.Option(help="Draw all plans (.png, .svg, .pdf).", rich_help_panel=_SWEEP)] = None
    force: Annotated[bool, typer.Option("--force", help="Let --output, --plot and --report replace files.")] = False

    def check(self, *, reports: bool) -> None:
        """Raise ValueError when an option of a sweep is given without one, or --force without a file to replace."""
        if not self.sweep and (self.only or self.plot):
            raise ValueError("--only, --plot: they are of --sweep; give --sweep too")
        if self.force and not (self.output or self.plot or reports):
            raise ValueError("--force: lets files be replaced; name one with --output, --plot or --report too")


@dataclass(frozen=True, slots=True)
class TraceFlags:
    """Whether and how much a plan is traced."""

    trace: Annotated[
        bool,
        typer.Option("--trace", help="Run nothing: count what torch would do on pretended ranks.",
                     rich_help_panel=_TRACE),
    ] = False  # fmt: skip
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Every layer and microbatch, not a few of each.", rich_help_panel=_TRACE),
    ] = False

    def check(self, sweep: SweepFlags, append: Path | None, *, reports: bool) -> None:
        """Raise ValueError when options contradict each other."""
        if self.trace and reports:
            raise ValueError("--report: shows what was measured, but --trace runs nothing; leave one of them out")
        if self.whole and not self.trace:
            raise ValueError("--whole: it says how much --trace counts; give --trace too")
        if self.trace and sweep.output:
            raise ValueError("--output: keeps what was measured, but --trace runs nothing; --json prints its answer")
        if self.trace and append:
            raise ValueError("--append: takes what was measured, but --trace runs nothing; leave one of them out")
        if self.trace and sweep.sweep:
            raise ValueError("--trace: counts one plan and runs none, but --sweep runs many; give one of them")
