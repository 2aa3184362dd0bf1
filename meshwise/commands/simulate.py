"""`meshwise simulate`: play a plan on a clock."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwise.options import (
    JobFlags,
    JsonFlag,
    LongRunFlags,
    MoneyFlags,
    NetworkFlags,
    ReportFlags,
    SplitFlags,
    given,
    takes,
)

if TYPE_CHECKING:
    from meshwise.asking import Asked
    from meshwise.longrun import LongRunAnswer
    from meshwise.onnetwork import OnNetwork
    from planner.cost.estimate import Estimate
    from simulator.engine import Simulation


@takes(JobFlags, SplitFlags, NetworkFlags, LongRunFlags, MoneyFlags, ReportFlags)
def simulate(
    job: JobFlags,
    split: SplitFlags,
    wires: NetworkFlags,
    long_run: LongRunFlags,
    cost: MoneyFlags,
    reports: ReportFlags,
    *,
    file: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A plan (options win over it) or serving job.")
    ] = None,
    gantt: Annotated[Path | None, typer.Option(help="Draw the step, or queues over time (.png, .svg, .pdf).")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev (.json).")] = None,
    heat_map: Annotated[
        Path | None, typer.Option(help="Of --network: draw how busy its links are (.png, .svg, .pdf).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let pictures, --trace and --report replace files.")] = False,
    json: JsonFlag = False,
) -> int:
    """Play one split action by action (breakdown beside the estimate, activations held), or a serving job's requests.

    With --network flows every message shares the links it crosses with all others of its time.
    With --days, also weeks of it: interruptions, checkpoints, restarts, and the share of steps that count.

    Example: meshwise simulate plan.toml --gantt step.png

    Example: meshwise simulate examples/llama3-8b-chat.toml --trace requests.json
    """
    from meshwise import asking, jsonout, longrun, onnetwork, screen
    from meshwise.money import document, terms
    from meshwise.serving import jobfile
    from meshwise.tables.money import show_money

    _check_files(gantt, heat_map, trace, force)
    reports.check(force)
    if file is not None and jobfile.is_serving(file):
        jobfile.refuse_options(given(job) | given(split) | given(wires) | given(long_run) | given(cost))
        if heat_map:
            jobfile.refuse_options({"heat_map": heat_map})
        return _simulate_serving(file, gantt, trace, reports, force=force, json=json)
    on_links, weeks, runs = _kinds(wires, long_run, heat_map)
    dollars = terms.read(file, given(cost))
    asked = asking.plan_question(file, terms.on_offer(dollars, given(job), file), given(split))
    price = terms.terms_of(dollars, asked.question)
    answer = asking.estimate(asked)
    with screen.progress() as on_progress:
        shared = onnetwork.answer(asked, on_links, runs, partial(on_progress, "steps")) if on_links else None
        played = shared.step.lane_simulation() if shared else asking.play(asked.question, asked.plan)
        _write_files(asked, played, shared, gantt, trace, heat_map)
        over_weeks = longrun.answer(asked, weeks, partial(on_progress, "runs")) if weeks else None
    useful = over_weeks.spread("useful")[0] if over_weeks else 1.0
    reports.write("simulate", force, asked, answer, played, over_weeks, shared, file)
    if json:
        bills = document.money(asked.question, played.breakdown, price, useful)
        screen.print_json(jsonout.simulation(asked.question, answer, played, over_weeks, shared, bills))
    else:
        _show(asked, answer, played, shared, over_weeks)
        show_money(screen.console(), asked.question, asked.plan, played.breakdown, price, useful)
        _say_written(gantt, trace, heat_map)
    return 0


def _show(
    asked: "Asked", answer: "Estimate", played: "Simulation", shared: "OnNetwork | None",
    over_weeks: "LongRunAnswer | None",
) -> None:  # fmt: skip
    from meshwise import screen
    from meshwise.tables import plans
    from meshwise.tables.longrun import show_long_run
    from meshwise.tables.network import show_network

    plans.show_simulation(screen.console(), asked.question, answer, played)
    if shared:
        show_network(screen.console(), shared)
    if over_weeks:
        screen.console().print()
        tokens = asked.question.job.tokens_per_step
        show_long_run(screen.console(), over_weeks, played.breakdown.step_seconds, tokens)


def _kinds(
    wires: NetworkFlags, long_run: LongRunFlags, heat_map: Path | None
) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    """What is given of a network, of a long run, and of the runs of a network's step.

    Raises ValueError for options whose own kind is not asked for. Of both kinds, the seed is of both and the rest of
    the long run.
    """
    from meshwise.draws import FLAGS

    on_links, weeks = given(wires), given(long_run)
    runs = {name: weeks[name] for name in FLAGS if name in weeks and (name == "seed" or "days" not in weeks)}
    if "network" in on_links and "days" not in weeks:
        weeks = {name: value for name, value in weeks.items() if name not in FLAGS}
    if weeks and "days" not in weeks:
        raise ValueError(f"{next(iter(weeks))}: needs --days, the length of the run")
    if (on_links or heat_map) and "network" not in on_links:
        raise ValueError(f"{next(iter(on_links), 'heat_map')}: needs --network flows")
    return on_links, weeks, runs


def _say_written(*paths: Path | None) -> None:
    from meshwise import screen

    for path in paths:
        if path:
            screen.console().print(f"wrote {path}", markup=False)


def _check_files(gantt: Path | None, heat_map: Path | None, trace: Path | None, force: bool) -> None:
    from profiles.files import PICTURES, check_writable

    for path, endings in ((gantt, PICTURES), (heat_map, PICTURES), (trace, (".json",))):
        if path:
            check_writable(path, force, endings)


def _write_files(
    asked: "Asked", played: "Simulation", shared: "OnNetwork | None", gantt: Path | None, trace: Path | None,
    heat_map: Path | None,
) -> None:  # fmt: skip
    title = f"{asked.question.job.model.name}: {asked.plan}"
    if gantt:
        from simulator.gantt import save_gantt

        save_gantt(played, gantt, title=title)
    if trace:
        from simulator.trace import write_trace

        everyone = shared.step.simulation if shared else played
        name_of = shared.step.name if shared else "rank {}".format
        write_trace(trace, everyone.tracks, everyone.prices, num_stages=asked.plan.pp, name_of=name_of)
    if shared and heat_map:
        from simulator.network.draw import save_network

        save_network(shared.step.network, heat_map, shared.step.busy_fraction, title=title)


def _simulate_serving(
    file: Path, gantt: Path | None, trace: Path | None, reports: ReportFlags, *, force: bool, json: bool
) -> int:
    """The same for a serving job: requests on a clock."""
    from meshwise import screen
    from meshwise.serving import jobfile, playing
    from meshwise.serving.document import document
    from meshwise.tables.serving import show_serving

    answer = playing.simulate(jobfile.read(file), keeps_batches=trace is not None)
    run = answer.runs[0]
    if gantt:
        from simulator.serving.picture import save_serving

        save_serving(run.played, run.timeline, gantt, title=answer.title, limit_seconds=answer.targets.ttft_seconds)
    if trace:
        from simulator.serving.perfetto import serving_events
        from simulator.trace import write_events

        write_events(trace, serving_events(run.played, run.timeline))
    reports.write("serving-simulate", force, answer, file)
    if json:
        screen.print_json(document(answer))
    else:
        show_serving(screen.console(), answer)
        for path in (gantt, trace):
            if path:
                screen.console().print(f"wrote {path}", markup=False)
    return 0
