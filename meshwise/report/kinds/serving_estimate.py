"""The report of `meshwise estimate` of a serving job: what users see under its load, in closed form."""

from pathlib import Path

from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import figure, plain
from meshwise.report.document import Block, Cell, Column, Paragraph, Picture, Report, Section, Table
from meshwise.report.figures.serving import draw_times
from meshwise.report.limits import serving_limits
from meshwise.report.served import asked_section, engine_basis, sources_of, targets_words, time_cell
from meshwise.serving.estimating import ServingEstimate
from meshwise.serving.jobfile import ServingFile
from meshwise.tables.serving_plans import plan_words
from planner.choose.explain import duration
from profiles.units import GIB

_TIMES = (
    ("ttft_seconds", "time to first token, mean", "ttft"),
    ("ttft_tail_seconds", "time to first token, 99 % below", "ttft"),
    ("tpot_seconds", "time per output token", "tpot"),
    ("e2e_seconds", "whole answer", "e2e"),
)


@kind("serving-estimate")
def serving_estimate_report(file: ServingFile, found: tuple[ServingEstimate, ...], path: Path) -> Report:
    """Every model of the job under its load."""
    words = [f"{_sentence(one)} The targets: {targets_words(file)}." for one in found]
    names = ", ".join(one.served.name for one in found)
    return assembled(
        f"Serving estimate: {names}",
        (" ".join(words), engine_basis(*(one.served.engine for one in found))),
        asked_section(file, path),
        tuple(Section(one.served.name, _blocks(number, one)) for number, one in enumerate(found, start=1)),
        sources_of(file),
        serving_limits(),
    )


def _sentence(one: ServingEstimate) -> str:
    plan = one.served.plan
    where = f"{one.served.name} on {plan.num_devices} devices of {plan.clusters} ({plan_words(plan)})"
    if not one.is_stable:
        return f"{where} is asked faster than it answers: queues grow without end."
    return (
        f"{where} gives the first token after {duration(one.ttft_seconds)} in the mean and each further one after "
        f"{duration(one.tpot_seconds)}, {one.output_tokens_per_second:,.0f} output tokens/s in all; it would meet the "
        f"targets up to {one.most_requests_per_second:,.1f} requests/s."
    )


def _blocks(number: int, one: ServingEstimate) -> tuple[Block, ...]:
    engine = one.served.engine
    rows = [(Cell(name), time_cell(engine, getattr(one, field), metric)) for field, name, metric in _TIMES]
    drawn = [(name, getattr(one, field), metric) for field, name, metric in _TIMES]
    columns = (Column("figure"), Column("estimate", "", is_number=True, is_prediction=True))
    rates = (
        ("output tokens a second", one.output_tokens_per_second), ("requests running", one.num_running),
        ("most requests a second under the targets", one.most_requests_per_second),
    )  # fmt: skip
    rows += [(Cell(name), figure(value, "{:,.1f}".format)) for name, value in rates]
    memory = (
        Column("pool"), Column("weights", "GiB", is_number=True), Column("keys and values", "GiB", is_number=True),
        Column("tokens", note="whose keys and values a replica holds", is_number=True),
    )  # fmt: skip
    held = tuple(
        (
            plain(place), figure(pool.weight_bytes / GIB, "{:.1f}".format),
            figure(pool.kv_bytes / GIB, "{:.1f}".format), plain(spec.replica.kv_tokens),
        )
        for place, (pool, spec) in enumerate(zip(one.served.memory, one.served.deployment.pools, strict=True), start=1)
    )  # fmt: skip
    return (
        Picture(f"times-{number}", "What users wait for", "Predicted times and the range of nine in ten measurements.",
                lambda: draw_times(engine, drawn)),
        Table(f"{one.served.name} under the load", columns, tuple(rows),
              f"{engine_basis(engine)} Rates follow from the times."),
        Table(f"memory of a device of {one.served.name}", memory, held),
        Paragraph("Closed forms; `meshwise simulate` plays the requests."),
    )  # fmt: skip
