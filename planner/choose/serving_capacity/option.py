"""One way to pay for a deployment: devices of one or two offers by the hour, and what they come to."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import ndtr, ndtri

from planner.choose.serving_capacity import counts
from planner.choose.serving_capacity.demand import Floats, ServedDay
from planner.choose.serving_capacity.deployment import Deployment
from planner.cost.money import Bill, Rates, bill, installed_watts, rates_of
from profiles.costs import OwnershipFigures, PowerShares
from profiles.offer import Offer
from profiles.site import Site, site
from profiles.units import HOUR, MEGA

LEVEL = 0.9
"""Of the interval of dollars."""
STATIC, AUTOSCALED, PART_SPOT, BASE_AND_PEAK = "static", "autoscaled", "part spot", "committed base, on-demand peak"


_NOWHERE = Site(1.0, 0.0, 0.0)
"""Where electricity costs nothing."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What bills are made with."""

    shares: PowerShares
    figures: OwnershipFigures
    """Of owners whose devices are all in use: hours that are held are billed, whether busy or not."""


@dataclass(frozen=True, slots=True)
class Line:
    """Devices of one offer."""

    offer: Offer
    devices: Floats
    """Paid in each hour, shape (hours,)."""


@dataclass(frozen=True, slots=True)
class FleetOption:
    """A deployment on offers, over the hours of a day's load."""

    how: str
    lines: tuple[Line, ...]
    deployment: Deployment
    num_replicas: tuple[Floats, ...]
    """Replicas that answer in each hour, of each kind."""
    bill: Bill
    low_dollars: float
    high_dollars: float
    """Of the same hours where replicas take more or fewer requests than was said, by the error of the prediction."""
    dollars_per_million_output_tokens: float
    risk_fraction: float
    """Chance that the busiest hour misses the targets."""

    @property
    def offer(self) -> Offer:
        """The offer of most devices."""
        return max(self.lines, key=lambda line: float(line.devices.sum())).offer

    @property
    def dollars(self) -> float:
        """Of all hours."""
        return float(self.bill.total_dollars)

    @property
    def peak_counts(self) -> tuple[int, ...]:
        """Replicas of each kind in the busiest hour."""
        return tuple(int(numbers.max()) for numbers in self.num_replicas)

    @property
    def peak_devices(self) -> int:
        """Paid at most at a time."""
        return int(np.ceil(sum(line.devices for line in self.lines).max()))  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class Fleet:
    """A deployment under a load, with the error of its prediction: what every way to pay for it has in common."""

    deployment: Deployment
    day: ServedDay
    error_factor: float
    """One standard deviation of the rate a replica takes, over what was said, which is log-normal."""
    prices: Prices

    def option(self, how: str, offer: Offer, other: Offer | None = None) -> FleetOption:
        """Pay for it by `offer`; `other` is the spot or on-demand offer beside it."""
        room = self.day.headroom(self.error_factor)
        numbers = self.deployment.counts(self.day, room)
        width = float(self.error_factor ** ndtri(0.5 + 0.5 * LEVEL))
        lines, *ends = (
            self._lines(how, self.deployment.counts(self.day, room, factor), offer, other)
            for factor in (1.0, width, 1.0 / width)
        )
        found = self._bill(lines)
        dollars = float(found.total_dollars)
        low, high = (float(self._bill(end).total_dollars) for end in ends)
        tokens = float(self.day.requests_per_second.sum()) * HOUR * self.day.output_tokens
        return FleetOption(
            how, lines, self.deployment, numbers, found, min(low, dollars), max(high, dollars),
            dollars * MEGA / tokens, self._risk(numbers, how, other),
        )  # fmt: skip

    def _lines(self, how: str, numbers: Sequence[Floats], offer: Offer, other: Offer | None) -> tuple[Line, ...]:
        startup = self.day.startup_seconds
        if how == STATIC:
            return (Line(offer, counts.static(self._devices(numbers, offer))),)
        if how == AUTOSCALED or other is None:
            return (Line(offer, counts.autoscaled(self._devices(numbers, offer), startup)),)
        if how == PART_SPOT:
            up = counts.available(other.interruptions_per_device_second * other.devices_per_instance, startup)
            shares = [counts.spot_share(each, self.day.spot_fraction, up) for each in numbers]
            return tuple(
                Line(each, counts.autoscaled(self._devices([share[place] for share in shares], each), startup))
                for place, each in enumerate((offer, other))
            )
        held = self._devices(numbers, offer)
        base = self._base(held, offer, other)
        peak = np.maximum(self._devices(numbers, other) - base, 0.0)
        return Line(offer, np.full_like(held, base)), Line(other, counts.autoscaled(peak, startup))

    def _base(self, held: Floats, committed: Offer, rented: Offer) -> float:
        """Devices worth committing to: the number that is cheapest, with those beyond it on demand.

        A device that is needed in a share of the hours is worth it when that share is above the ratio of the prices.
        """
        sizes = np.unique(np.concatenate([[0.0], held]))
        peaks = counts.autoscaled(np.maximum(held - sizes[:, None], 0.0), self.day.startup_seconds)
        rates = [float(bill(1.0, 0.0, self._rates(one), _NOWHERE).total_dollars) for one in (committed, rented)]
        return float(sizes[np.argmin(rates[0] * sizes * len(held) + rates[1] * peaks.sum(axis=-1))])

    def _devices(self, numbers: Sequence[Floats], offer: Offer) -> Floats:
        each = zip(numbers, self.deployment.replicas, strict=True)
        return np.asarray(
            sum(counts.devices(count, float(one.num_devices), float(offer.devices_per_instance)) for count, one in each)
        )

    def _bill(self, lines: Sequence[Line]) -> Bill:
        """Of all hours. Devices draw more power the more of their replicas' rate is used; all of them as much."""
        shares, paid = self.prices.shares, float(sum(line.devices.sum() for line in lines))
        numbers = [float(each.max()) for each in self.deployment.counts(self.day, 0.0)]
        used = sum(n * one.num_devices for n, one in zip(numbers, self.deployment.replicas, strict=True))
        work = float(self.day.requests_per_second.sum()) * used / self.deployment.most_requests_per_second(numbers)
        busy = shares.idle_fraction + (shares.busy_fraction - shares.idle_fraction) * min(work / paid, 1.0)
        rated = self._rated_watts
        parts = [
            bill(
                float(line.devices.sum()) * HOUR, rated * (busy + shares.host_fraction), self._rates(line.offer),
                site(line.offer.provider, line.offer.region, line.offer.country),
            )
            for line in lines
        ]  # fmt: skip
        return Bill(*(sum(getattr(one, field.name) for one in parts) for field in fields(Bill)))

    def _rates(self, offer: Offer) -> Rates:
        return rates_of(offer, installed_watts(self._rated_watts, self.prices.shares), self.prices.figures)

    @property
    def _rated_watts(self) -> float:
        """Of a device; 0 where it is not known, and energy is left out."""
        return self.deployment.replicas[0].room.cluster.accelerator.power_watts or 0.0

    def _risk(self, numbers: Sequence[Floats], how: str, spot: Offer | None) -> float:
        """Of the busiest hour: replicas take less than was said (log-normal), or too many spot replicas are away."""
        most = self.deployment.most_requests_per_second([float(each.max()) for each in numbers])
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.log(self.day.peak_requests_per_second / most) / np.log(self.error_factor)
            slow = float(ndtr(np.nan_to_num(distance, nan=-np.inf)))
        if how != PART_SPOT or spot is None:
            return slow
        up = counts.available(
            spot.interruptions_per_device_second * spot.devices_per_instance, self.day.startup_seconds
        )
        met = 1.0 - slow
        bare = self.deployment.counts(self.day, 0.0)
        for each, needed in zip(numbers, bare, strict=True):
            stay, held = counts.spot_share(each.max(), self.day.spot_fraction, up)
            met *= 1.0 - float(counts.chance_short(held, np.maximum(needed.max() - stay, 0.0), up))
        return 1.0 - met
