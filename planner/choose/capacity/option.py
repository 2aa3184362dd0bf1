"""One way to meet a demand, an offer at a number of devices: how long, how dear, how sure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.choose.capacity.charge import tariff
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.pace import Pace
from planner.choose.capacity.risk import chance_above, num_deviations
from planner.choose.capacity.run import Run, row, run_of
from planner.cost.money import Bill
from profiles.offer import Offer
from profiles.units import DAY, MEGA, MINUTE


@dataclass(frozen=True, slots=True)
class Option:
    """An offer at a number of devices, its best plan, and what comes of it."""

    offer: Offer
    num_devices: int
    pace: Pace
    run: Run
    low_seconds: float
    """Of runs predicted like this one a share `pace.level_fraction` take between these two."""
    high_seconds: float
    bill: Bill
    """As predicted; nothing is in it of a run that never ends."""
    low_dollars: float
    high_dollars: float
    outlay_dollars: float
    """What must be spent before the run begins, which the budget must cover; 0 of what is rented."""
    tokens: float
    late_fraction: float
    """Probability of missing the deadline; 0 without one."""
    dear_fraction: float
    """Probability of costing more than the budget; 0 without one."""
    shortfall: str
    """Why it is not good enough, in one sentence; "" where it is."""

    @property
    def ends(self) -> bool:
        """Whether it gets anywhere between interruptions."""
        return bool(np.isfinite(self.run.seconds))

    def can_begin(self, demand: Demand) -> bool:
        """Whether it ends, and the budget covers what must be spent before it begins."""
        return self.ends and self.outlay_dollars <= demand.budget_dollars

    @property
    def days(self) -> float:
        """Of the run, as predicted."""
        return float(self.run.seconds) / DAY

    @property
    def dollars(self) -> float:
        """What the run costs, as predicted."""
        return float(self.bill.total_dollars) if self.ends else np.inf

    @property
    def dollars_per_million_tokens(self) -> float:
        """The same by what is made of it."""
        return self.dollars / (self.tokens / MEGA)

    @property
    def key(self) -> tuple[str, int]:
        """What tells options apart."""
        return self.offer.name, self.num_devices

    @property
    def risk_fraction(self) -> float:
        """Probability of ending late or too dear: both follow the run's length, so that the rarer implies the other."""
        return max(self.late_fraction, self.dear_fraction)


def options_of(offer: Offer, paces: Sequence[tuple[int, Pace]], demand: Demand) -> list[Option]:
    """The options of one offer: one for each (number of devices, pace)."""
    if not paces:
        return []
    devices = np.array([float(number) for number, _ in paces])
    found = [pace for _, pace in paces]
    run = run_of(offer, devices, found, demand)
    width = num_deviations(np.array([one.level_fraction for one in found]))
    low, high = run.quantile_seconds(-width), run.quantile_seconds(width)
    charged = tariff(offer, found, demand)
    ends = np.isfinite(run.seconds)
    expected, least, most = (charged.bill(devices, np.where(ends, length, 0.0)) for length in (run.seconds, low, high))
    late = run.late_fraction(demand.deadline_seconds)
    longest = charged.affordable_seconds(devices, demand.budget_dollars)
    dear = chance_above(longest, run.median_seconds, run.spread_fraction)
    made = [
        Option(
            offer=offer,
            num_devices=number,
            pace=pace,
            run=row(run, index),
            low_seconds=float(low[index]),
            high_seconds=float(high[index]),
            bill=row(expected, index),
            low_dollars=float(least.total_dollars[index]) if ends[index] else np.inf,
            high_dollars=float(most.total_dollars[index]) if ends[index] else np.inf,
            outlay_dollars=charged.outlay_dollars_per_device * number,
            tokens=demand.tokens,
            late_fraction=float(late[index]),
            dear_fraction=float(dear[index]),
            shortfall="",
        )
        for index, (number, pace) in enumerate(paces)
    ]
    return [replace(one, shortfall=shortfall(one, demand)) for one in made]


def shortfall(one: Option, demand: Demand) -> str:
    """Why an option is not good enough, in one sentence; "" where it is."""
    if not one.ends:
        every = one.run.stops.seconds_between / MINUTE
        return f"never ends: interrupted every {every:.2g} minutes, before it can save what it did"
    faults = []
    over = one.days - demand.deadline_days
    if over > 0.0:
        faults.append(f"too slow: {one.days:,.0f} days, {over:,.0f} past the deadline")
    elif one.late_fraction > demand.max_risk_fraction:
        faults.append(f"too risky: late with a chance of {one.late_fraction:.0%}")
    if one.outlay_dollars > demand.budget_dollars:
        faults.append(f"too dear: an outlay of {one.outlay_dollars / demand.budget_dollars:.2f} times the budget")
    elif one.dollars > demand.budget_dollars:
        faults.append(f"too dear: {one.dollars / demand.budget_dollars:.2f} times the budget")
    elif one.dear_fraction > demand.max_risk_fraction:
        faults.append(f"too risky: over the budget with a chance of {one.dear_fraction:.0%}")
    return "; ".join(faults)
