"""Adds what `validate` measured to the user's own table of runs."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from meshwise import screen
from meshwise.jobfile import Question
from planner.plan import Plan
from validate.compare import Comparison
from validate.measured import Measurement
from validate.rows import Measured, append_rows, row_of
from validate.sweep.outcome import Outcome


def append(path: Path, question: Question, found: Sequence[Comparison | Outcome]) -> None:
    """Add a row for every measured plan; those that no column describes are named on stderr."""
    rows = []
    for one in found:
        plan: Plan = one.plan
        measurement: Measurement = one.measured
        peak_bytes = (one.measured_peak if isinstance(one, Comparison) else one.peak).allocated_bytes
        try:
            measured = Measured(question.job, plan, question.alike("validate"), measurement, peak_bytes)
            rows.append(row_of(measured, date.today()))
        except ValueError as error:
            screen.say(f"{plan} is not in {path}: {error}")
    append_rows(path, rows)
    screen.say(f"{len(rows)} rows added to {path}; next: meshwise score training {path}")
