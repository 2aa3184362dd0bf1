"""Paces, offers and demands for tests of capacity, without a search."""

from dataclasses import replace
from typing import Any

from planner.breakdown import Breakdown
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.pace import NoPace, Pace
from planner.plan import Plan
from profiles import catalog
from profiles.offer import Offer
from profiles.units import DAY, HOUR

COUNTS = (64, 128, 256, 512)
TOKENS = 1e12


def pace(num_devices: int, *, device_seconds: float = 2000.0, overhead_seconds: float = 0.5) -> Pace:
    """A step that shrinks with the devices, but for an overhead."""
    step = Breakdown(
        forward_seconds=device_seconds / num_devices / 3.0,
        backward_seconds=2.0 * device_seconds / num_devices / 3.0,
        dp_seconds=overhead_seconds,
    )
    return Pace(
        plan=Plan(dp=num_devices), breakdown=step, low_seconds=0.9 * step.step_seconds,
        high_seconds=1.2 * step.step_seconds, level_fraction=0.8, basis="a test", peak_bytes=1e10, usable_bytes=8e10,
        mfu_fraction=0.4, is_measured=True, rated_watts=700.0, state_bytes=1e12, num_plans=1,
    )  # fmt: skip


def rent(name: str = "rented", *, dollars_per_hour: float = 2.0, cluster: str = "room", **more: Any) -> Offer:
    """Devices by the hour."""
    values = {"terms": "on-demand", "provider": "test", "source": "a test", "accelerator": "h100-sxm"} | more
    return Offer(name=name, cluster=cluster, dollars_per_device_second=dollars_per_hour / HOUR, **values)


def purchase(name: str = "bought", *, price: float = 30_000.0, cluster: str = "room", **more: Any) -> Offer:
    """Devices to buy."""
    values = {"provider": "test", "source": "a test", "accelerator": "h100-sxm", "includes": "server"} | more
    return Offer(name=name, cluster=cluster, terms="purchase", purchase_dollars_per_device=price, **values)


def demand(**more: Any) -> Demand:
    """A trillion tokens in 90 days, failures as of Llama 3."""
    usual = Demand(
        tokens=TOKENS, tokens_per_step=4e6, fleet=catalog.reliability("llama3-405b"), deadline_seconds=90 * DAY,
        spare_fraction=0.05,
    )  # fmt: skip
    return replace(usual, **more)


def paces(*clusters: str, slower: float = 1.0) -> dict[tuple[str, int], Pace | NoPace]:
    """The paces of COUNTS on each cluster, each `slower` than the one before."""
    return {
        (cluster, number): pace(number, device_seconds=2000.0 * slower**place)
        for place, cluster in enumerate(clusters)
        for number in COUNTS
    }
