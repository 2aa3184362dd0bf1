"""The report of `meshwise simulate`: a step played action by action, on a network, and weeks of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meshwise.amounts import amount
from meshwise.asking import Asked
from meshwise.draws import mean_error
from meshwise.longrun import LEVEL, LongRunAnswer
from meshwise.onnetwork import OnNetwork
from meshwise.report.answers import asked_words, largest_words, memory_words, step_words, trust_words
from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import figure, percent, plain, predicted
from meshwise.report.document import Block, Column, Paragraph, Picture, Report, Section, Source, Table
from meshwise.report.figures.runs import draw_draws, draw_shares
from meshwise.report.figures.steps import draw_side_by_side
from meshwise.report.inputs import training_inputs
from meshwise.report.kinds.estimate import held
from meshwise.report.limits import training_limits
from meshwise.report.provenance import record, training_sources
from meshwise.report.steps import parts_table, seconds_cell
from meshwise.tables.longrun import PART_WORDS as SHARE_WORDS
from meshwise.tables.longrun import long_run_words
from planner.choose.explain import PART_WORDS, duration
from planner.cost.estimate import Estimate
from profiles.units import DAY, GIB

if TYPE_CHECKING:
    from simulator.engine import Simulation

_NUM_LINKS = 3
_INTERVAL = 0.95
"""Level of the interval of a mean."""


@kind("simulate")
def simulate_report(
    asked: Asked, answer: Estimate, played: "Simulation", over_weeks: LongRunAnswer | None, shared: OnNetwork | None,
    path: Path | None,
) -> Report:  # fmt: skip
    """One played split: `shared` where it was played on a network, `over_weeks` where weeks of it were."""
    question, plan = asked.question, asked.plan
    seconds = float(played.breakdown.step_seconds)
    words = (
        f"{asked_words(question)} Played action by action, split as {plan}, {step_words(question, plan, seconds)}. "
        f"{largest_words(played.breakdown)} {memory_words(question, answer)}"
    )
    if over_weeks is not None:
        useful, low, high = over_weeks.spread("useful")
        words += (
            f" Over {over_weeks.horizon_seconds / DAY:g} days with failures, {percent(useful)} % of the time goes into "
            f"steps that count ({percent(low)} to {percent(high)} % in {100.0 * LEVEL:.0f} % of the runs)."
        )
    fleet: tuple[Source, ...] = (record("reliability", over_weeks.fleet),) if over_weeks else ()
    return assembled(
        f"Simulation: {question.job.model.name} on {question.cluster.num_devices:,} devices",
        (words, trust_words(question, plan)),
        training_inputs(question, plan, path),
        (
            Section("The step", _step(asked, answer, played)),
            Section("On the network", _network(asked, shared) if shared else ()),
            Section("Weeks of it", _weeks(over_weeks, seconds, question.job.tokens_per_step) if over_weeks else ()),
            Section("What the devices hold", held(question, plan)),
        ),
        (*training_sources(question), *fleet),
        training_limits(question, plays_failures=over_weeks is not None),
    )


def _step(asked: Asked, answer: Estimate, played: "Simulation") -> tuple[Block, ...]:
    from simulator.gantt import draw_gantt

    question, plan = asked.question, asked.plan
    readings = {"estimated": answer.breakdown, "simulated": played.breakdown}
    whole = {name: seconds_cell(question, plan, float(one.step_seconds)) for name, one in readings.items()}
    return (
        Picture("gantt", "The step, action by action",
                "One row a pipeline rank: compute above, messages as thin lines below it; grey is waiting.",
                lambda: draw_gantt(played, title="")),
        Picture("readings", "Parts of the step, estimated and simulated",
                "The estimate is in closed form, the simulation plays every action; both use the same prices.",
                lambda: draw_side_by_side(readings)),
        parts_table(readings, whole),
        _activations(played),
    )  # fmt: skip


def _activations(played: "Simulation") -> Table:
    columns = (
        Column("pipeline rank", is_number=True),
        Column("microbatches", note="held at the peak; of virtual stages each one's counted", is_number=True),
        Column("activations", "GiB", "of these microbatches", is_number=True, is_prediction=True),
    )
    rows = tuple(
        (plain(rank), plain(count), figure(num_bytes / GIB, "{:.2f}".format))
        for rank, (count, num_bytes) in enumerate(
            zip(played.peak_activations, played.peak_activation_bytes, strict=True)
        )
    )
    basis = "Counted on the clock; the error bar of memory is that of the whole peak, below."
    return Table("activations held, by pipeline rank", columns, rows, basis)


def _network(asked: Asked, shared: OnNetwork) -> tuple[Block, ...]:
    from simulator.network.draw import draw_network

    step = shared.step
    simulated = step.folding.num_lanes * step.folding.plan.pp
    blocks: list[Block] = [
        Paragraph(
            f"{simulated:,} simulated ranks stand for {step.network.num_devices:,} devices; {step.num_messages:,} "
            f"messages share {len(step.network.links):,} links."
        ),
        Picture("network", "How busy the links are", "Devices below, switches above; darker links are used longer.",
                lambda: draw_network(step.network, step.busy_fraction, title=asked.question.cluster.name)),
        _links(shared),
    ]  # fmt: skip
    if step.delays[step.simulation.busiest_rank]:
        blocks.append(_delays(shared))
    if shared.undisturbed is not None:
        blocks.append(_disturbed(shared))
    if shared.run_seconds:
        draws = np.array(shared.run_seconds)
        mean, half = float(draws.mean()), mean_error(shared.run_seconds)
        blocks += [
            Picture("draws", "The step in further draws", "How often a step of each length was drawn, and the mean.",
                    lambda: draw_draws(draws)),
            Paragraph(f"Over {len(draws)} draws a step takes {duration(mean)}; the mean lies between "
                      f"{duration(mean - half)} and {duration(mean + half)} ({100.0 * _INTERVAL:.0f} % interval)."),
        ]  # fmt: skip
    return tuple(blocks)


_ALONE = "Of one play at the prices below; the error bar is that of the step."


def _links(shared: OnNetwork) -> Table:
    columns = (Column("link"), Column("in use", "%", "of the step", is_number=True, is_prediction=True))
    rows = tuple((plain(name), figure(busy, percent)) for name, busy in shared.step.busiest_links(_NUM_LINKS))
    return Table("busiest links of each part of the network", columns, rows, _ALONE)


def _delays(shared: OnNetwork) -> Table:
    causes = {"alone": "on empty links", "contention": "what sharing links adds", "waiting": "for others to be ready"}
    columns = (
        Column("messages"),
        *(Column(cause, "", note, is_number=True, is_prediction=True) for cause, note in causes.items()),
    )
    rows = tuple(
        (plain(PART_WORDS.get(part, part)), *(figure(seconds[cause], duration) for cause in causes))
        for part, seconds in shared.step.delays[shared.step.simulation.busiest_rank].items()
    )
    return Table("messages of the busiest rank", columns, rows, _ALONE)


def _disturbed(shared: OnNetwork) -> Table:
    assert shared.undisturbed is not None
    before, after = (step.mean_parts() for step in (shared.undisturbed, shared.step))
    columns = (
        Column("part", note="in the mean of all devices"),
        *(Column(name, "", is_number=True, is_prediction=True) for name in ("without", "with", "change")),
    )
    values = {PART_WORDS.get(part, part): (before[part], after[part]) for part in before if before[part] or after[part]}
    values["step"] = (shared.undisturbed.simulation.step_seconds, shared.step.simulation.step_seconds)
    rows = tuple((plain(name), *(figure(one, duration) for one in (*pair, pair[1] - pair[0])))
                 for name, pair in values.items())  # fmt: skip
    return Table("what is slow or broken costs", columns, rows, _ALONE, len(rows) - 1)


def _weeks(found: LongRunAnswer, step_seconds: float, tokens_per_step: float) -> tuple[Block, ...]:
    parts = list(found.expected.parts())
    spreads = {part: found.spread(part) for part in parts}
    columns = (
        Column("share of the time"),
        Column("closed form", "%", "a spare node is always at hand", is_number=True),
        Column("played", "%", f"mean, and the {100.0 * LEVEL:.0f} % range of the runs", is_number=True,
               is_prediction=True),
        Column("mean known to", "%", f"half its {100.0 * _INTERVAL:.0f} % confidence interval", is_number=True),
    )  # fmt: skip
    rows = tuple(
        (
            plain(SHARE_WORDS[part]),
            figure(None if part == "waiting" else float(found.expected.parts()[part]), percent),
            predicted(percent, *spreads[part]), figure(found.mean_error(part), percent),
        )
        for part in parts
    )  # fmt: skip
    useful, least, most = (one * found.horizon_seconds / step_seconds for one in found.spread("useful"))
    mean, low, high = found.interruptions
    done = (
        f"{mean:,.0f} interruptions ({low:,.0f} to {high:,.0f}) leave {useful:,.0f} steps ({least:,.0f} to "
        f"{most:,.0f}), or {amount(useful * tokens_per_step)} tokens."
    )
    basis = f"Ranges over {len(found.runs)} runs at one step time; its own error bar comes on top."
    return (
        *(Paragraph(f"{words[0].upper()}{words[1:]}.") for words in long_run_words(found)),
        Picture("weeks", "Where the time goes", "Mean over the runs of each share, and the range of the runs.",
                lambda: draw_shares([SHARE_WORDS[part] for part in parts], [spreads[part] for part in parts])),
        Table("shares of the time", columns, rows, basis, 0),
        Paragraph(done),
    )  # fmt: skip
