"""Which pipeline schedule a published run used, from the names that frameworks give them."""

import re

from planner.plan import ScheduleName
from validate.runs.table import Run

NAMES: dict[str, ScheduleName] = {
    "1f1b": "1f1b", "gpipe": "gpipe", "interleaved": "interleaved", "1f1b-interleaved": "interleaved",
    "interleaved1f1b": "interleaved", "vpp": "interleaved", "loopedbfs": "breadth-first", "bfs": "breadth-first",
    "zb-h1": "zb-h1", "zbh1": "zb-h1", "zb1p": "zb-h1", "zb-h2": "zb-h2", "zbh2": "zb-h2", "zbv": "zb-v",
    "zb-v": "zb-v", "zbvzerobubble": "zb-v", "dualpipe": "dualpipe", "dualpipev": "dualpipe-v",
    "dualpipe-v": "dualpipe-v",
}  # fmt: skip
"""A name as flags say it, in small letters -> ours."""


CHUNKS: dict[ScheduleName, int] = {"zb-v": 2, "dualpipe-v": 2, "zb-h1": 1, "zb-h2": 1, "dualpipe": 1, "gpipe": 1}
"""Chunks a rank of the schedules that know only one number of them."""


def schedule_of(run: Run, vp: int) -> tuple[ScheduleName, int]:
    """The schedule that the flags of a run name ("PP schedule ZBV"), else what `vp` implies, and its chunks a rank.

    Raises ValueError for one that is not known here.
    """
    implied: ScheduleName = "interleaved" if vp > 1 else "1f1b"
    found = re.search(r"schedule ([\w-]+)", run.other_flags, re.IGNORECASE)
    if not found or (run.pp or 1) == 1:
        return implied, vp
    name = found.group(1).lower()
    if name not in NAMES:
        raise ValueError(f"pipeline schedule {name} is not modelled")
    chosen = NAMES[name]
    if chosen in ("1f1b", "interleaved"):
        return implied, vp
    return chosen, CHUNKS.get(chosen, vp)
