"""Placements: which group of nodes holds each stage of each replica, and how many microbatches each replica runs.

The text is `8 of h100*4,a100*4 @16; 2 of a100*8 @10`: eight replicas whose first four stages lie on h100 and the others
on a100, with 16 microbatches a step each, and two replicas on a100 alone with 10.
"""

import re
from itertools import groupby
from typing import NamedTuple


class Lane(NamedTuple):
    """Replicas that are alike."""

    num_replicas: int
    num_microbatches: int
    """Of each replica, a step; 0: an equal share."""
    stages: tuple[str, ...]
    """The group of nodes that holds each pipeline stage."""


Placement = tuple[Lane, ...]
ANYWHERE: Placement = ()
"""On a cluster whose nodes are all alike there is nothing to say."""

_PLACEMENTS: list[Placement] = [ANYWHERE]
_CODES: dict[Placement, int] = {ANYWHERE: 0}
_LANE = re.compile(r"\s*(\d+)\s+of\s+([^@;]+?)\s*(?:@\s*(\d+)\s*)?")
_STAGES = re.compile(r"\s*([A-Za-z][A-Za-z0-9_.-]*)(?:\*(\d+))?\s*")
MOST_STAGES = 10_000


def placement_code(placement: Placement) -> int:
    """The number that stands for `placement` in a grid's column of this process; 0 for ANYWHERE."""
    if placement not in _CODES:
        _CODES[placement] = len(_PLACEMENTS)
        _PLACEMENTS.append(placement)
    return _CODES[placement]


def placement_of(code: int) -> Placement:
    """The inverse of `placement_code`."""
    return _PLACEMENTS[code]


def written(placement: Placement) -> str:
    """A placement as files and command lines hold it; `auto` for ANYWHERE."""
    return "; ".join(_lane(lane) for lane in placement) or "auto"


def _lane(lane: Lane) -> str:
    runs = [(name, len(list(same))) for name, same in groupby(lane.stages)]
    stages = ",".join(f"{name}*{count}" for name, count in runs)
    share = f" @{lane.num_microbatches}" if lane.num_microbatches else ""
    return f"{lane.num_replicas} of {stages}{share}"


def parsed(text: str) -> Placement:
    """The placement that `text` names; raises ValueError for what is none."""
    if text == "auto":
        return ANYWHERE
    return tuple(_parsed_lane(part, text) for part in text.split(";"))


def _parsed_lane(part: str, text: str) -> Lane:
    found = _LANE.fullmatch(part)
    runs = [_STAGES.fullmatch(run) for run in found.group(2).split(",")] if found else []
    stages = [(run.group(1), int(run.group(2) or 1)) for run in runs if run]
    if not found or len(stages) < len(runs) or not 0 < sum(count for _, count in stages) <= MOST_STAGES:
        raise ValueError(
            f"placement: {text!r} is none; write auto, or replicas, the stages that each group holds and microbatches, "
            'as in "8 of h100*4,a100*4 @16; 2 of a100*8 @10"'
        )
    return Lane(
        int(found.group(1)),
        int(found.group(3) or 0),
        tuple(name for name, count in stages for _ in range(count)),
    )
