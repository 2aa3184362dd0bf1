"""From flags to one step on a network: its wiring, what is slow or broken, and what else uses it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from meshwise.asking import MAX_ACTIONS, Asked
from meshwise.draws import play_runs
from planner.cost.phase import price_program
from planner.plan import Plan
from planner.work.lower import lower
from planner.work.one_tree import one_tree
from profiles import catalog
from profiles.clocks import clock_fraction
from profiles.cluster import Cluster
from profiles.units import MICRO, MILLI
from simulator.disturbances import Disturbances
from simulator.network.build import Network, build_network
from simulator.network.step import NetworkStep, simulate_on_network

if TYPE_CHECKING:
    from profiles.accelerator import Accelerator

_TIMES = {"us": MICRO, "ms": MILLI, "s": 1.0}
_DISTURBING = ("slow_host", "speed_spread", "jitter", "os_noise", "background", "slow_link", "failed_link")


@dataclass(frozen=True, slots=True)
class OnNetwork:
    """A step on a network, and, where something disturbs it, the same without."""

    step: NetworkStep
    undisturbed: NetworkStep | None
    run_seconds: Sequence[float] = ()
    """Steps of further draws, where several were asked for."""


def answer(
    asked: Asked,
    flags: Mapping[str, Any],
    runs: Mapping[str, Any],
    on_progress: Callable[[int, int], None] | None = None,
) -> OnNetwork:
    """Play the step that the flags describe; `runs` says with what seed, how many draws of it, and who plays them.

    Raises ValueError for a flag without sense.
    """
    seed = runs.get("seed", 0)
    unequal = _disturbances(flags, _homogeneous(asked)[1].accelerator)
    played = _play(asked, flags, unequal, seed, np.random.default_rng(seed))
    if not unequal.is_random and "runs" in runs:
        raise ValueError("runs: nothing is drawn at random; give --speed-spread, --jitter or --os-noise, or --days")
    many: list[float] = []
    if "runs" in runs:
        draw = partial(_step_seconds, asked, flags, unequal, seed)
        many = play_runs(draw, runs, f"{asked} {flags}", float, float, on_progress)
    disturbed = any(flags.get(name) for name in _DISTURBING)
    usual = {name: value for name, value in flags.items() if name not in (*_DISTURBING, "fidelity")}
    undisturbed = _play(asked, usual, Disturbances(), seed, np.random.default_rng(seed)) if disturbed else None
    return OnNetwork(played, undisturbed, many)


def _step_seconds(
    asked: Asked, flags: Mapping[str, Any], unequal: Disturbances, seed: int, generator: np.random.Generator
) -> float:
    return _play(asked, flags, unequal, seed, generator).simulation.step_seconds


def _play(
    asked: Asked, flags: Mapping[str, Any], unequal: Disturbances, seed: int, generator: np.random.Generator
) -> NetworkStep:
    """One step; `seed` is of the network's hashes."""
    question, (plan, cluster) = asked.question, _homogeneous(asked)
    if flags["network"] != "flows":
        raise ValueError(f"network: {flags['network']} is not known; flows is, or leave it out for fixed prices")
    fidelity = flags.get("fidelity", "folded")
    if fidelity not in ("folded", "ranks"):
        raise ValueError(f"fidelity: {fidelity} is not one of folded, ranks")
    fabric = catalog.fabric(flags["fabric"]) if "fabric" in flags else None
    network = _broken(build_network(cluster, fabric, seed=seed), flags)
    unfolds = fidelity == "ranks" or unequal.is_random
    num_actions = 2 * plan.num_microbatches(question.job.global_batch) * plan.pp * plan.vp
    if unfolds and num_actions * plan.num_ranks // plan.pp > MAX_ACTIONS:
        raise ValueError(
            f"fidelity: {plan.num_ranks:,} ranks make more than {MAX_ACTIONS:,} actions one by one; use "
            "--fidelity folded and no random spread, or a smaller batch"
        )
    program = lower(plan, question.job, question.stack)
    prices = price_program(program, cluster, question.stack)
    return simulate_on_network(
        program, prices, cluster, network,
        dp_overlap=question.stack.dp_overlap, pp_overlap=question.stack.pp_overlap,
        dp_contention_fraction=question.stack.dp_contention_fraction, unfolds=unfolds,
        background_fraction=flags.get("background", 0.0), disturbances=unequal, generator=generator,
    )  # fmt: skip


def _homogeneous(asked: Asked) -> tuple[Plan, Cluster]:
    """The plan, and the nodes that it runs on as one tree of links."""
    cluster, plan = asked.question.cluster, asked.plan
    if isinstance(cluster, Cluster):
        return plan, cluster
    found = one_tree(plan, cluster, plan.num_microbatches(asked.question.job.global_batch))
    if found is None:
        raise ValueError(
            f"network: flows play groups of equal nodes that share the work equally, and {plan} on {cluster.name} is "
            "none; leave --network out, or give a placement on one group or with equal shares of all"
        )
    return found


def _disturbances(flags: Mapping[str, Any], device: "Accelerator") -> Disturbances:
    noise, period = _noise(flags["os_noise"]) if "os_noise" in flags else (0.0, 0.0)
    for name in ("speed_spread", "jitter"):
        if not 0.0 <= flags.get(name, 0.0) < 1.0:
            raise ValueError(f"{name}: must be at least 0 and below 1, got {flags[name]:g}")
    return Disturbances(
        slow_hosts=dict(_slow_host(text, device) for text in flags.get("slow_host", ())),
        speed_spread_fraction=flags.get("speed_spread", 0.0),
        jitter_fraction=flags.get("jitter", 0.0),
        noise_seconds=noise,
        noise_period_seconds=period,
    )


def _slow_host(text: str, device: "Accelerator") -> tuple[int, float]:
    """`3=0.8` or `3=500W`: (host, share of its rate left); a power limit lowers the clock by its cube root."""
    host, _, value = text.partition("=")
    watts = value.removesuffix("W")
    try:
        if watts == value:
            return int(host), float(value)
        if not device.power_watts:
            raise ValueError(f"slow_host: {text}: the power of {device.name} is not known; give a share of its rate")
        return int(host), clock_fraction(float(watts), device.power_watts)
    except ValueError as error:
        if str(error).startswith("slow_host"):
            raise
        raise ValueError(f"slow_host: {text}: write HOST=SHARE, as 3=0.8, or HOST=WATTS, as 3=500W") from None


def _noise(text: str) -> tuple[float, float]:
    """`50us/10ms`: (how long, how far apart) in seconds."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s)/([\d.]+)(us|ms|s)", text)
    if found is None or float(found[3]) == 0.0:
        raise ValueError(f"os_noise: {text}: write DURATION/PERIOD, as 50us/10ms")
    return float(found[1]) * _TIMES[found[2]], float(found[3]) * _TIMES[found[4]]


def _broken(network: Network, flags: Mapping[str, Sequence[str]]) -> Network:
    """`network` with its slow and failed links."""
    for text in flags.get("slow_link", ()):
        name, _, value = text.rpartition("=")
        try:
            fraction = float(value)
        except ValueError:
            raise ValueError(f"slow_link: {text}: write LINK=SHARE, as rank0:leaf0=0.5") from None
        network = network.slowed(network.link(name), fraction)
    return network.without([link for text in flags.get("failed_link", ()) for link in network.link(text)])
