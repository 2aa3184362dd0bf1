"""A simulated serving job as tables: what was played, what users saw, what it needs."""

import math

from rich.console import Console

from meshwise.serving.jobfile import LoadTable, ServedTable
from meshwise.serving.modelling import variant_words
from meshwise.serving.playing import Served, ServingAnswer
from meshwise.tables.parts import share, table
from planner.choose.explain import duration
from profiles.units import GIB
from simulator.serving.statistics import LEVEL, PERCENTILES, Estimate, Summary

NAMES = (("ttft_seconds", "time to first token"), ("tpot_seconds", "time per output token"),
         ("e2e_seconds", "whole answer"))  # fmt: skip


def show_serving(console: Console, answer: ServingAnswer) -> None:
    """The job restated, the first run in detail, groups of requests, and the range over all runs."""
    for one, asked in zip(answer.served, answer.file.serving, strict=True):
        _show_served(console, one)
        show_variant(console, asked)
    console.print(f"load: {load_words(answer.file.load, len(answer.runs[0].played.requests))}\n", markup=False)
    found = answer.runs[0].figures
    _show_rates(console, answer, found)
    made = table("seconds of a request", ">mean", *(f">p{percent}" for percent in PERCENTILES), ">target")
    for field, name in NAMES:
        spread = getattr(found, field)
        limit = getattr(answer.targets, field)
        cells = [_with_interval(spread.mean), *(_with_interval(spread.percentiles[percent]) for percent in PERCENTILES)]
        made.add_row(name, *cells, duration(limit) if limit else "-")
    gaps = answer.runs[0].timeline.gaps
    between = [_time(gaps.mean_seconds), *(_time(gaps.percentile_seconds(percent)) for percent in PERCENTILES)]
    made.add_row("between tokens", *between, "-")
    console.print(made)
    console.print(f"Intervals: {LEVEL:.0%}, of the simulation alone; prices have errors of their own.", style="dim")
    groups = answer.groups()
    if groups:
        _show_groups(console, groups, answer.runs[0].whole.requests.tenants)
    if len(answer.runs) > 1:
        _show_runs(console, answer)


def show_variant(console: Console, asked: ServedTable) -> None:
    """What a variant saves and is known to lose."""
    for words in variant_words(asked):
        console.print(f"  {words}", markup=False)


def load_words(load: LoadTable, count: int) -> str:
    """The load in a line."""
    words = [f"{count:,} requests"]
    if load.trace is not None:
        words.append(f"of {load.trace}")
    if load.requests_per_second is not None:
        words.append(f"{load.arrivals} at {load.requests_per_second:g}/s")
    if load.concurrency is not None:
        words.append(f"closed loop of {load.concurrency} clients")
    if load.input_tokens is not None and load.output_tokens is not None:
        words.append(f"{load.input_tokens:,} tokens in, {load.output_tokens:,} out")
        if load.shortest_fraction is not None:
            words.append(f"uniform from {load.shortest_fraction:.0%} of that")
        elif load.input_spread_fraction or load.output_spread_fraction:
            words.append(f"spread {load.input_spread_fraction:g} and {load.output_spread_fraction:g}")
        else:
            words.append("fixed")
    if load.cached_fraction:
        words.append(f"{load.cached_fraction:.0%} of prompts cached")
    return ", ".join(words)


def _show_served(console: Console, one: Served) -> None:
    forms = f"weights {one.plan.weights}, KV {one.plan.kv_dtype}, {one.engine.name}"
    forms += ", eager" if one.plan.eager else ""
    several = one.plan.prefill is not None and one.plan.prefill.cluster != one.plan.decode.cluster
    what = one.name if one.name == one.model.name else f"{one.name}: {one.model.name}"
    console.print(f"{what} on {one.plan.num_devices} of {one.plan.clusters}, {forms}", style="bold", markup=False)
    pools = [(one.plan.prefill, "prompts"), (one.plan.decode, "decoding" if one.plan.prefill else "all work")]
    used = [(pool, name) for pool, name in pools if pool is not None]
    for (pool, name), spec, memory in zip(used, one.deployment.pools, one.memory, strict=True):
        degrees = ", ".join(f"{axis} {getattr(pool, axis)}" for axis in ("tp", "pp", "ep", "attention_dp"))
        where = f" on {pool.cluster}" if several else ""
        console.print(
            f"  {name}: {pool.replicas} replicas of {degrees}{where}; {spec.router}; weights "
            f"{memory.weight_bytes / GIB:.1f} GiB a device, {spec.replica.kv_tokens:,} tokens of KV a replica, "
            f"at most {spec.replica.max_sequences} requests and {spec.replica.token_budget:,} tokens an iteration",
            markup=False,
        )
    unverified = [f"{one.model.name}.{name}" for name in one.model.unverified if not name.startswith("published")]
    if unverified:
        console.print(f"  not checked against a source: {', '.join(unverified)}", markup=False)


def _show_rates(console: Console, answer: ServingAnswer, found: Summary) -> None:
    per_device = found.output_tokens_per_second / answer.mean_devices
    console.print(
        f"{found.requests_per_second:.3g} requests/s, {found.output_tokens_per_second:,.0f} output tokens/s "
        f"({per_device:,.0f} a device) over {duration(found.duration_seconds)}; "
        f"busiest replica at work {share(answer.busiest)} of the time",
        markup=False,
    )
    notes = []
    if found.num_refused:
        notes.append(f"{found.num_refused:,} requests refused: longer than the memory of a replica")
    if found.num_preemptions:
        lost = " or with a replica that failed" if any(one.has_failures for one in answer.file.serving) else ""
        notes.append(f"{found.num_preemptions:,} preemptions for want of memory{lost}")
    if found.cached_fraction:
        notes.append(f"{share(found.cached_fraction)} of prompt tokens found in a cache")
    if notes:
        console.print("; ".join(notes), markup=False)
    if answer.has_targets:
        asked = answer.file.targets.attained_fraction
        verdict = "met" if answer.is_met else "MISSED"
        console.print(
            f"targets {verdict}: {_share_with_interval(found.attained_fraction)} of requests within all of theirs "
            f"({share(asked)} asked), goodput {found.goodput_requests_per_second:.3g} requests/s",
            style="bold", markup=False,
        )  # fmt: skip
    console.print()


def _show_groups(console: Console, groups: list[tuple[str, Summary]], tenants: tuple[str, ...]) -> None:
    made = table("requests of", ">number", ">first token p50", ">p99", ">per token p50", ">p99", ">within targets")
    for name, found in groups:
        spreads = (found.ttft_seconds, found.tpot_seconds)
        cells = [_time(spread.percentiles[percent].value) for spread in spreads for percent in (50, 99)]
        within = share(found.attained_fraction.value) if name in tenants else "-"
        made.add_row(name, f"{found.num_requests:,}", *cells, within)
    console.print()
    console.print(made)


def _show_runs(console: Console, answer: ServingAnswer) -> None:
    made = table(f"over {len(answer.runs)} seeds", ">least", ">most")
    for field, name in NAMES:
        ends = answer.spread(lambda found, field=field: getattr(found, field).mean.value)  # type: ignore[misc]
        made.add_row(f"mean {name}", *map(_time, ends))
    ends = answer.spread(lambda found: found.output_tokens_per_second)
    made.add_row("output tokens/s", *(f"{end:,.0f}" for end in ends))
    console.print()
    console.print(made)


def _time(seconds: float) -> str:
    return duration(seconds) if math.isfinite(seconds) else "-"


def _with_interval(found: Estimate) -> str:
    """A time and by how much it may be off, as the larger side of its interval."""
    if not math.isfinite(found.value):
        return "-"
    off = max(found.high - found.value, found.value - found.low)
    return (
        f"{duration(found.value)} ±{share(off / found.value)}" if math.isfinite(off) else f"{duration(found.value)} ±?"
    )


def _share_with_interval(found: Estimate) -> str:
    low, high = max(found.low, 0.0), min(found.high, 1.0)
    return share(found.value) if low == high else f"{share(found.value)} ({share(low)} .. {share(high)})"
