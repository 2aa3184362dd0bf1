"""The best plan on each of several numbers of devices: what more devices buy, and what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from meshwise import jobfile
from meshwise.jobfile import Question
from planner.cost.estimate import Estimate
from planner.cost.memory import usable_bytes
from planner.cost.metrics import tokens_per_second
from profiles.units import HOUR, TERA

if TYPE_CHECKING:
    from meshwise.money.terms import MoneyAsked


@dataclass(frozen=True, slots=True)
class Scale:
    """A number of devices and the best plan there by estimate; None when none fits."""

    question: Question
    best: Estimate | None
    on_front: bool
    """No other number of devices is at least as good in step time, dollars and memory headroom together; without a
    price, device-hours stand for dollars."""
    dollars_per_tera: float | None = None
    """Dollars of 1e12 tokens (or samples) without interruptions; None where no price is known."""

    @property
    def num_devices(self) -> int:
        """Devices of the cluster."""
        return self.question.cluster.num_devices

    @property
    def device_hours_per_tera(self) -> float | None:
        """Device-hours of 1e12 tokens (or samples) without interruptions."""
        if self.best is None:
            return None
        rate = float(tokens_per_second(self.best.step_seconds, self.question.job))
        return TERA / rate * self.num_devices / HOUR

    @property
    def headroom_bytes(self) -> float | None:
        """Bytes left of what a plan may use of a device."""
        if self.best is None:
            return None
        return float(usable_bytes(self.question.alike("--scale"), self.question.stack) - self.best.memory.peak_bytes)


def parse_counts(text: str) -> list[int]:
    """`64,128,256` as numbers, ascending, each once; raises ValueError naming the text and what is right."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 0 < len(word) < 9 and int(word) > 0 for word in words):
        raise ValueError(f"scale: {text!r} is not a list of numbers of devices, e.g. 64,128,256")
    return sorted({int(word) for word in words})


def scaled(
    question: Question, counts: Sequence[int], fixed: dict[str, int | str | bool], asked: "MoneyAsked | None" = None
) -> list[Scale]:
    """The best plan of the same job, batch and all, on each number of devices, and its dollars if those are `asked`.

    Raises ValueError for a number of devices that the cluster cannot have, or that the offer does not come in.
    """
    from meshwise.money.terms import items_a_step, terms_of
    from planner.choose.pareto import front_mask
    from planner.choose.search import search

    found = []
    for count in counts:
        try:
            here = jobfile.question(question.table.model_copy(update={"devices": count}))
            price = terms_of(asked, here)
        except ValueError as error:
            raise ValueError(f"scale: {error}") from error
        best = search(here.job, here.alike("--scale"), here.stack, fixed=fixed, top=1).candidates
        a_step = price.dollars(best[0].estimate.breakdown) if price and best else None
        dollars = None if a_step is None else float(a_step) * TERA / items_a_step(here)
        found.append(Scale(here, best[0].estimate if best else None, on_front=False, dollars_per_tera=dollars))
    costs = [
        (
            float(one.best.step_seconds),
            one.dollars_per_tera or one.device_hours_per_tera or 0.0,
            -(one.headroom_bytes or 0.0),
        )
        for one in found
        if one.best is not None
    ]
    front = iter(front_mask(np.array(costs)) if costs else ())
    return [replace(one, on_front=bool(one.best is not None and next(front))) for one in found]
