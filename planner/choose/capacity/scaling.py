"""How the speed of a job grows with devices: the same batch on more of them (strong), or a batch each (weak)."""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.choose.capacity.pace import Pace

BEND_FRACTION = 0.8
"""Devices that are added bend the curve when they bring less than this share of what those before them bring each."""


@dataclass(frozen=True, slots=True)
class Point:
    """One number of devices on a scaling curve."""

    num_devices: int
    pace: Pace
    tokens_per_second: float
    speedup_factor: float
    """Tokens per second over those of the fewest devices."""
    efficiency_fraction: float
    """Tokens per second and device over those of the fewest devices."""
    marginal_fraction: float
    """Tokens per second of each device added since the point before, over those of the devices before; 1 at first."""
    grown_part: str
    """The part of the step that takes most device time a token more than at the point before; "" where none does."""
    grown_fraction: float
    """What it takes more, over the device time of a token at the point before."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The best plans of one job on more and more devices of one cluster."""

    cluster: str
    is_weak: bool
    points: tuple[Point, ...]

    @property
    def bend(self) -> Point | None:
        """The first point whose added devices bring less than BEND_FRACTION of the others; None: none of these."""
        return next((one for one in self.points if one.marginal_fraction < BEND_FRACTION), None)


def curve(cluster: str, paces_by_tokens: Sequence[tuple[int, Pace, float]], *, is_weak: bool = False) -> Curve:
    """The curve of (devices, pace, tokens a step), by ascending devices."""
    points: list[Point] = []
    for place, (number, pace, tokens) in enumerate(paces_by_tokens):
        rate = tokens / pace.step_seconds
        part, growth, marginal = "", 0.0, 1.0
        first_number, first_rate = number, rate
        if place:
            before_number, before, before_tokens = paces_by_tokens[place - 1]
            before_rate = before_tokens / before.step_seconds
            marginal = (rate - before_rate) / (number - before_number) / (before_rate / before_number)
            part, growth = _growth(before_number, before, before_tokens, number, pace, tokens)
            first_number, first_rate = points[0].num_devices, points[0].tokens_per_second
        points.append(Point(
            number, pace, rate, rate / first_rate, rate / number / (first_rate / first_number), marginal, part, growth,
        ))  # fmt: skip
    return Curve(cluster, is_weak, tuple(points))


def _growth(
    before_number: int, before: Pace, before_tokens: float, number: int, pace: Pace, tokens: float
) -> tuple[str, float]:
    """(part, growth) of the part whose device time a token grew most, as a share of the whole before."""
    earlier = {name: value * before_number / before_tokens for name, value in before.breakdown.parts().items()}
    grown = {name: value * number / tokens - earlier[name] for name, value in pace.breakdown.parts().items()}
    part = max(grown, key=lambda name: grown[name])
    return (part, grown[part] / sum(earlier.values())) if grown[part] > 0.0 else ("", 0.0)
