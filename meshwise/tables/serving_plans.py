"""Searches and estimates of serving jobs as tables for people."""

import math

from rich.console import Console
from rich.table import Table

from meshwise.serving.estimating import ServingEstimate
from meshwise.serving.jobfile import ServingFile
from meshwise.serving.planning import ServingPlans
from meshwise.serving.stage import PlayedCandidate
from meshwise.tables.parts import share, table
from meshwise.tables.serving import show_variant
from planner.choose.explain import duration
from planner.choose.serving import ServingCandidate
from planner.cost.serving_load import Lengths
from planner.serving import Pool, ServingPlan
from profiles.units import GIB

MAX_FRONT_LINES = 12


def show_estimates(console: Console, file: ServingFile, found: tuple[ServingEstimate, ...]) -> None:
    """Each model's memory, and what its users see under the load."""
    for one, asked in zip(found, file.serving, strict=True):
        plan = one.served.plan
        console.print(f"{one.served.name} on {plan.num_devices} of {plan.clusters}: {plan_words(plan)}", style="bold")
        for memory, spec in zip(one.served.memory, one.served.deployment.pools, strict=True):
            console.print(
                f"  weights {memory.weight_bytes / GIB:.1f} GiB a device, keys and values "
                f"{memory.kv_bytes / GIB:.1f} GiB: {spec.replica.kv_tokens:,} tokens a replica",
                markup=False,
            )
        show_variant(console, asked)
        console.print(_estimate(one))
        if not one.is_stable:
            console.print("requests come faster than they are answered: queues grow without end", style="bold")
        console.print("Closed forms; `meshwise simulate` plays the requests.", style="dim")


def _estimate(one: ServingEstimate) -> Table:
    most = _most(one.load.lengths)
    made = table("figure", ">estimate")
    rows = (
        ("time to first token, mean", _time(one.ttft_seconds)),
        (f"time to first token, {most} below", _time(one.ttft_tail_seconds)),
        ("time per output token", _time(one.tpot_seconds)),
        (f"time per output token, {most} below", _time(one.tpot_tail_seconds)),
        (f"between two tokens, {most} below", _time(one.itl_tail_seconds)),
        ("whole answer", _time(one.e2e_seconds)),
        ("output tokens/s", f"{one.output_tokens_per_second:,.0f}"),
        ("requests running", f"{one.num_running:,.1f}"),
        ("most requests/s under the targets", f"{one.most_requests_per_second:,.2f}"),
    )
    for row in rows:
        made.add_row(*row)
    return made


def _most(lengths: Lengths) -> str:
    """The share of requests that tails are about."""
    return f"{100.0 * (1.0 - lengths.tail_fraction):.3g} %"


def show_plans(console: Console, answer: ServingPlans) -> None:
    """The best deployments, what the simulator made of the first, and the front of the two rates."""
    question, found = answer.question, answer.found
    asked = question.requests_per_second
    best = "as cheaply as possible" if question.is_priced else "on as few devices as possible"
    goal = f"{asked:g} requests/s {best}" if asked else "the highest rate on the devices"
    where = " or ".join(f"{room.cluster.num_devices} of {room.cluster.name}" for room in question.rooms)
    console.print(
        f"{question.model.name} on up to {where}, "
        f"{question.engine.name}: {goal}; {found.num_considered:,} deployments considered",
        style="bold", markup=False,
    )  # fmt: skip
    show_variant(console, answer.file.serving[0])
    if not found.candidates:
        show_refusal(console, answer)
        return
    several = bool(question.others)
    console.print(_candidates(answer.ranked, names_clusters=several, is_rate_given=asked is not None))
    if answer.num_requests:
        console.print(
            f"Where a share of requests within all targets is shown, the times are of a simulation of "
            f"{answer.num_requests:,} requests; the rest are closed forms.",
            style="dim",
        )
    if not answer.is_met:
        console.print(
            f"none of the deployments that were simulated keeps {share(answer.file.targets.attained_fraction)} of the "
            "requests within the targets: loosen one, lower the rate, or give more devices",
            style="bold",
        )
    if any(one.candidate.plan.weights != "bf16" for one in answer.ranked):
        console.print(
            "Weights narrower than 16 bits change answers: evaluate the checkpoint before it serves.", style="dim"
        )
    console.print()
    console.print(_front(found.pareto, names_clusters=several))


def show_refusal(console: Console, answer: ServingPlans) -> None:
    """Why nothing serves the load."""
    console.print("no deployment meets the targets at this load on these devices", style="bold")
    for reason, count in answer.found.refused.items():
        console.print(f"{count:>6}  {reason}", markup=False)
    if answer.found.nearest:
        console.print(answer.found.nearest, markup=False)
    console.print("loosen a target, lower the rate, allow narrower weights, or give more devices")


def _candidates(ranked: tuple[PlayedCandidate, ...], *, names_clusters: bool, is_rate_given: bool) -> Table:
    is_priced = ranked[0].candidate.dollars_per_hour is not None
    columns = ("deployment", ">most requests/s", ">first token", ">99 % below", ">per token", ">within targets")
    made = table(">devices", *([">$ an hour"] if is_priced else []), *columns)
    for one in ranked:
        found = one.candidate
        played = share(one.figures.attained_fraction.value) if one.figures is not None else "-"
        made.add_row(
            str(found.plan.num_devices), *([f"{found.dollars_per_hour:,.2f}"] if is_priced else []),
            plan_words(found.plan, names_clusters=names_clusters),
            f"{found.most_requests_per_second if is_rate_given else found.requests_per_second:,.1f}",
            *map(_time, one.times), played,
        )  # fmt: skip
    return made


def _front(front: tuple[ServingCandidate, ...], *, names_clusters: bool) -> Table:
    made = table(
        ">tokens/s a user", ">tokens/s a device", ">devices", "deployment", title="no deployment is better in both"
    )
    lines = min(len(front), MAX_FRONT_LINES)
    for number in range(lines):
        one = front[round(number * (len(front) - 1) / max(lines - 1, 1))]
        rates = (f"{one.tokens_per_second_per_user:,.0f}", f"{one.tokens_per_second_per_device:,.0f}")
        made.add_row(*rates, str(one.plan.num_devices), plan_words(one.plan, names_clusters=names_clusters))
    return made


def plan_words(plan: ServingPlan, *, names_clusters: bool = False) -> str:
    """A deployment in a line, with what each pool lies on where that is not plain."""
    forms = f"weights {plan.weights}, KV {plan.kv_dtype}" + (", eager" if plan.eager else "")
    pools = [("decode ", plan.decode)] if plan.prefill else [("", plan.decode)]
    if plan.prefill is not None:
        pools.insert(0, ("prompts ", plan.prefill))
    words = [name + _pool_words(pool) + (f" on {pool.cluster}" if names_clusters else "") for name, pool in pools]
    return f"{' | '.join(words)}; {forms}"


def _pool_words(pool: Pool) -> str:
    degrees = (("tp", pool.tp), ("pp", pool.pp), ("ep", pool.ep), ("attention dp", pool.attention_dp))
    split = " ".join(f"{name} {value}" for name, value in degrees if value > 1) or "tp 1"
    split += "" if pool.device_fraction == 1.0 else f" on {pool.device_fraction:.0%} of each device"
    return f"{pool.replicas} x {split}, {pool.max_sequences} requests, {pool.token_budget:,} tokens"


def _time(seconds: float) -> str:
    return duration(seconds) if math.isfinite(seconds) else "never"
