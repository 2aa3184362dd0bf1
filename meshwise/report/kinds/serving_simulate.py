"""The report of `meshwise simulate` of a serving job: what users saw, queues and memory over time."""

import math
from pathlib import Path

from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import digits, figure, percent, plain, predicted
from meshwise.report.document import Block, Cell, Column, Picture, Report, Section, Table
from meshwise.report.figures.serving import draw_waits
from meshwise.report.limits import serving_limits
from meshwise.report.served import asked_section, engine_basis, sources_of, targets_words
from meshwise.serving.playing import ServingAnswer
from meshwise.tables.serving import NAMES, load_words
from planner.choose.explain import duration
from simulator.serving.statistics import LEVEL, PERCENTILES, Estimate, Summary

_BASIS = f"Ranges: {100.0 * LEVEL:.0f} %, of the simulation alone; the prices below have errors of their own."


@kind("serving-simulate")
def serving_simulate_report(answer: ServingAnswer, path: Path) -> Report:
    """The first run in detail, groups of requests, and the range over all runs."""
    found = answer.runs[0].figures
    return assembled(
        f"Serving simulation: {', '.join(one.name for one in answer.served)}",
        (_summary(answer), f"{_BASIS} {engine_basis(*(one.engine for one in answer.served))}"),
        asked_section(answer.file, path),
        (
            Section("What users saw", _times(answer, found)),
            Section("Over time", _over_time(answer)),
            Section("By groups of requests", _groups(answer) if answer.groups() else ()),
            Section("Over all seeds", _seeds(answer) if len(answer.runs) > 1 else ()),
        ),
        sources_of(answer.file),
        serving_limits(),
    )


def _summary(answer: ServingAnswer) -> str:
    found, run = answer.runs[0].figures, answer.runs[0]
    words = (
        f"{answer.title}, played request by request: {load_words(answer.file.load, len(run.played.requests))}. "
        f"{found.requests_per_second:.3g} requests/s are answered with {found.output_tokens_per_second:,.0f} output "
        f"tokens/s ({found.output_tokens_per_second / answer.mean_devices:,.0f} a device); the first token comes after "
        f"{_time(found.ttft_seconds.percentiles[50])} in the median and {_time(found.ttft_seconds.percentiles[99])} at "
        f"the 99th percentile; the busiest replica works {percent(answer.busiest)} % of the time."
    )
    if answer.has_targets:
        share = found.attained_fraction
        verdict = "are met" if answer.is_met else "are missed"
        words += (
            f" The targets ({targets_words(answer.file)}) {verdict}: {percent(share.value)} % of requests stay within "
            f"all of theirs."
        )
    return words


def _time(found: Estimate) -> str:
    return duration(found.value) if math.isfinite(found.value) else "an unknown time"


def _cell(found: Estimate) -> Cell:
    return predicted(duration, found.value, found.low, found.high)


def _times(answer: ServingAnswer, found: Summary) -> tuple[Block, ...]:
    played, limits = answer.runs[0].played, answer.targets
    columns = (
        Column("seconds of a request"),
        Column("mean", "", is_number=True, is_prediction=True),
        *(Column(f"p{one}", "", f"{one} % below", is_number=True, is_prediction=True) for one in PERCENTILES),
        Column("target", "", is_number=True),
    )
    rows = tuple(
        (
            plain(name), _cell(getattr(found, field).mean),
            *(_cell(getattr(found, field).percentiles[one]) for one in PERCENTILES),
            figure(getattr(limits, field), duration),
        )
        for field, name in NAMES
    )  # fmt: skip
    counted = played.counted
    waits = [(name, getattr(played, field)[counted], getattr(limits, field)) for field, name in NAMES]
    facts = (
        ("requests asked", found.num_requests), ("refused: longer than the memory of a replica", found.num_refused),
        ("preemptions, for want of memory or with a replica that failed", found.num_preemptions),
    )  # fmt: skip
    counts = tuple((plain(name), plain(value)) for name, value in facts)
    return (
        Picture("waits", "How long requests waited", "Share of requests by how long they waited; a line is a target.",
                lambda: draw_waits(waits)),
        Table("seconds of a request", columns, rows, _BASIS),
        Table("what became of the requests", (Column("what"), Column("number", is_number=True)), counts),
    )  # fmt: skip


def _over_time(answer: ServingAnswer) -> tuple[Block, ...]:
    from simulator.serving.picture import draw_serving

    run = answer.runs[0]
    return (
        Picture("timeline", "Arrivals, waits, queues and memory",
                "From the top: requests that arrive and are done; the wait of each for its first token; requests that "
                "run and wait; keys and values in memory.",
                lambda: draw_serving(run.played, run.timeline, limit_seconds=answer.targets.ttft_seconds)),
    )  # fmt: skip


def _groups(answer: ServingAnswer) -> tuple[Block, ...]:
    columns = (
        Column("requests of"),
        Column("number", is_number=True),
        *(
            Column(f"{name} p{one}", "", f"{one} % below", is_number=True, is_prediction=True)
            for name in ("first token", "per token")
            for one in (50, 99)
        ),
        Column("within targets", "%", "of their own task", is_number=True, is_prediction=True),
    )
    tenants = answer.runs[0].whole.requests.tenants
    rows = tuple(
        (
            plain(name), plain(found.num_requests),
            *(_cell(times.percentiles[one]) for times in (found.ttft_seconds, found.tpot_seconds) for one in (50, 99)),
            figure(found.attained_fraction.value if name in tenants else None, percent),
        )
        for name, found in answer.groups()
    )  # fmt: skip
    return (Table("groups of requests", columns, rows, _BASIS),)


def _seeds(answer: ServingAnswer) -> tuple[Block, ...]:
    columns = (
        Column("seed", is_number=True),
        *(Column(name, "", "mean", is_number=True, is_prediction=True) for _, name in NAMES),
        Column("output", "tokens/s", is_number=True, is_prediction=True),
        Column("within targets", "%", is_number=True, is_prediction=True),
    )
    rows = tuple(
        (
            plain(run.seed), *(_cell(getattr(run.figures, field).mean) for field, _ in NAMES),
            figure(run.figures.output_tokens_per_second, digits), figure(run.figures.attained_fraction.value, percent),
        )
        for run in answer.runs
    )  # fmt: skip
    return (Table("every run", columns, rows, _BASIS),)
