"""Plans as tables: the question restated, a ranking, one plan in detail, and why nothing fits."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from meshwise.amounts import amount
from meshwise.errorbars import error_bar, is_tied
from meshwise.jobfile import Question, accelerators_of
from meshwise.tables.memory import show_memory
from meshwise.tables.parts import bar, table
from meshwise.tables.placements import show_lanes, show_placements
from meshwise.tables.space import front_table, show_pruned
from planner.breakdown import PARTS, Breakdown
from planner.choose.explain import PART_WORDS, differences, duration, why_risky, why_too_big
from planner.choose.search import Answer, Candidate
from planner.cost.estimate import Estimate
from planner.cost.fit import Fit, fit_of
from planner.cost.intervals import Interval
from planner.cost.metrics import mfu, model_flops_per_second_per_device, tokens_per_second
from planner.order import USUAL_ORDER
from planner.placement import written as written_placement
from planner.plan import Plan
from planner.recompute import Module
from profiles.cluster import Cluster
from profiles.mixed import AnyCluster
from profiles.model import LayerList
from profiles.parameters import num_parameters
from profiles.units import GIB, GIGA, TERA

if TYPE_CHECKING:
    from simulator.engine import Simulation

NOTABLE_GAP = 0.05
"""Shares of a step by which the closed form and the simulator may differ without a word."""


def show_question(console: Console, question: Question) -> None:
    """The question restated in one line, and what was assumed in another."""
    job = question.job
    console.print(question_words(question), style="bold", markup=False)
    if job.exchange.words():
        console.print(f"exchange: {'; '.join(job.exchange.words())}", markup=False)
    words = [text for text in question.assumed.values() if text]
    if words:
        console.print(f"assumed: {'; '.join(words)}", markup=False)
    doubts = unverified(question)
    if doubts:
        console.print(f"not checked against a source: {', '.join(doubts)}", markup=False)
    console.print()


def question_words(question: Question) -> str:
    """The question in one line."""
    job = question.job
    batch = f"{job.global_batch:,} sequences of {job.sequence_length:,} tokens"
    if isinstance(job.model, LayerList):
        batch = f"{job.global_batch:,} samples"
    return (
        f"{job.model.name} ({amount(num_parameters(job.model))} parameters) on {devices_words(question.cluster)}, "
        f"{batch} a step, {job.precision}, {question.stack.name}"
    )


def devices_words(cluster: AnyCluster) -> str:
    """`64 h100-sxm (dgx-h100: nvlink-4 x8, infiniband-ndr x64)`; groups of nodes one by one, and their join."""
    if isinstance(cluster, Cluster):
        tiers = ", ".join(f"{tier.link} x{tier.num_devices}" for tier in cluster.tiers)
        return f"{cluster.num_devices:,} {cluster.accelerator.name} ({cluster.name}: {tiers})"
    joined = f", joined by {cluster.join.tier.link}" if cluster.join else ", one fabric"
    groups = (f"{group.name}: {devices_words(group.cluster)}" for group in cluster.groups)
    return f"{cluster.name}: {' + '.join(groups)}{joined}"


def unverified(question: Question) -> list[str]:
    """Unverified figures that the answer rests on, as `record.field`."""
    peak = f"peak_flops_per_second.{question.job.precision}"
    used = {"memory_bytes", "memory_bytes_per_second", "peak_flops_per_second", peak}
    devices = accelerators_of(question.cluster)
    doubts = [f"{device.name}.{field}" for device in devices for field in device.unverified if field in used]
    model = question.job.model
    return doubts + [f"{model.name}.{field}" for field in model.unverified if not field.startswith("published")]


def show_answer(console: Console, question: Question, answer: Answer, saved: Path | None) -> None:
    """A ranked list of plans, the winner in detail, why the others lost, what was pruned, what to try next."""
    show_question(console, question)
    console.print(_ranking(question, answer))
    console.print(
        _basis(question, answer.candidates[0].plan, answer.candidates[0].step_seconds), style="dim", markup=False
    )
    _show_ties(console, answer)
    best = answer.candidates[0]
    _show_gap(console, best.estimate.breakdown, best.simulated)
    show_placements(console, answer)
    console.print()
    losers = [candidate for candidate in answer.candidates if candidate is not answer.candidates[0]]
    if losers:
        console.print("why the others lost", style="bold")
        for number, candidate in enumerate(losers, start=2):
            console.print(f"{number:>3}  {candidate.reason}", markup=False)
        console.print()
    if answer.front:
        console.print(front_table(question, answer.front))
        console.print()
    console.print(_breakdown_table(f"step of plan 1: {best.plan}", best.estimate.breakdown, best.simulated))
    console.print()
    show_memory(console, question, best.estimate)
    console.print()
    show_pruned(console, answer)
    _show_next(console, question, best.plan, saved)


def _show_ties(console: Console, answer: Answer) -> None:
    best = answer.candidates[0]
    tied = [str(rank) for rank, one in enumerate(answer.candidates[1:], start=2) if is_tied(one, best)]
    if tied:
        plural = "s" if len(tied) > 1 else ""
        console.print(
            f"plan{plural} {', '.join(tied)} tied with 1: closer than the ratio of two plans is known; "
            "run each for a few steps",
            style="dim",
            markup=False,
        )


def _show_gap(console: Console, estimated: Breakdown, simulated: Breakdown | None) -> None:
    """Where the closed form and the simulator disagree: by how much, in which part, and what to make of it."""
    if simulated is None:
        return
    gap = float(simulated.step_seconds / estimated.step_seconds) - 1.0
    if abs(gap) > NOTABLE_GAP:
        part, _ = differences(simulated, estimated)[0]
        console.print(
            f"played, the step is {abs(gap):.0%} {'longer' if gap > 0 else 'shorter'} than its closed form, most of it "
            f"{PART_WORDS[part]}: only the simulator knows how messages wait for one another; `plan` ranks by it, and "
            "--top 50 plays more plans",
            style="dim", markup=False,
        )  # fmt: skip


def show_refusal(console: Console, question: Question, answer: Answer, fixed: Mapping[str, int | str | bool]) -> None:
    """Why no plan fits: the nearest misses, the rules that rejected, and what would help."""
    show_question(console, question)
    unmet = answer.num_fitting > 0
    console.print("no plan meets every requirement" if unmet else "no plan fits", style="bold")
    held = ", ".join(f"{name}={value}" for name, value in fixed.items())
    if not answer.num_plans:
        devices = question.cluster.num_devices
        console.print(f"  no split of {devices:,} devices for {question.job.model.name} has {held}", markup=False)
        return
    for miss in answer.nearest_misses:
        console.print(f"  {miss.plan}: {miss.reason}", markup=False)
    if fixed:
        console.print(f"  held fixed: {held}", markup=False)
    show_pruned(console, answer)
    if answer.nearest_misses:
        console.print("what would help: more --devices, an accelerator with more memory, a shorter --sequence-length")
    elif unmet:
        console.print("what would help: a weaker --require; every plan that fits fails one of them")
    else:
        console.print(
            "what would help: a --global-batch and --devices that share factors, or fewer fields held by --fix"
        )


def show_estimate(console: Console, question: Question, answer: Estimate) -> None:
    """One plan: its rates, its step by part and its memory by part."""
    assert isinstance(answer.plan, Plan)
    show_question(console, question)
    console.print(f"{answer.plan}: {rates(answer.plan, float(answer.step_seconds), question)}", markup=False)
    console.print(_basis(question, answer.plan, float(answer.step_seconds)), style="dim", markup=False)
    _show_fit(console, question, answer)
    console.print()
    show_lanes(console, question, answer)
    console.print(_breakdown_table("step by part, on the slowest rank", answer.breakdown, None))
    console.print()
    show_memory(console, question, answer)


def show_simulation(console: Console, question: Question, answer: Estimate, played: "Simulation") -> None:
    """The simulated step beside the estimate, and what each pipeline rank held."""
    assert isinstance(answer.plan, Plan)
    show_question(console, question)
    simulated = played.breakdown
    console.print(
        f"{answer.plan}: simulated {rates(answer.plan, float(simulated.step_seconds), question)}", markup=False
    )
    _show_gap(console, answer.breakdown, simulated)
    _show_fit(console, question, answer)
    console.print()
    console.print(_breakdown_table("step by part, on the busiest rank", answer.breakdown, simulated))
    console.print()
    held = played.peak_activations
    chunks = " (each virtual stage's counted)" if answer.plan.vp > 1 else ""
    shown = ", ".join(str(count) for count in held[:16]) + (", ..." if len(held) > 16 else "")
    console.print(f"microbatches held at the peak, by pipeline rank{chunks}: {shown}")


def items(question: Question) -> str:
    """What a job's batch is counted in."""
    return "samples" if isinstance(question.job.model, LayerList) else "tokens"


def span(bar: Interval) -> str:
    """`38.1 .. 52.9 s`."""
    low, high = duration(float(bar.low_seconds)), duration(float(bar.high_seconds))
    return f"{low.removesuffix(' s') if high.endswith(' s') and not low.endswith('ms') else low} .. {high}"


def _basis(question: Question, plan: Plan, step_seconds: float) -> str:
    return f"ranges: {error_bar(question, plan, step_seconds).basis}"


def _show_fit(console: Console, question: Question, answer: Estimate) -> None:
    assert isinstance(answer.plan, Plan)
    home = question.home(answer.plan)
    verdict = fit_of(answer.memory, home, question.stack)
    if verdict is Fit.TOO_BIG:
        reason = why_too_big(answer, home, question.stack)
        console.print(f"{verdict}: {reason}", style="bold red", markup=False)
    elif verdict is Fit.RISKY:
        console.print(f"{verdict}: {why_risky(home, question.stack)}", style="bold", markup=False)


def rates(plan: Plan, step_seconds: float, question: Question) -> str:
    """A step time and what it means in tokens, FLOPs and MFU, in one line."""
    per_device = tokens_per_second(step_seconds, question.job) / question.cluster.num_devices
    bar = error_bar(question, plan, step_seconds)
    flops = model_flops_per_second_per_device(step_seconds, question.job, question.cluster)
    speed = f"{flops / TERA:,.0f} model TFLOP/s" if flops >= TERA else f"{flops / GIGA:,.0f} model GFLOP/s"
    used = mfu(step_seconds, question.job, question.cluster)
    return (
        f"step {duration(step_seconds)} ({bar.level_fraction:.0%} within {span(bar)}), "
        f"{per_device:,.0f} {items(question)}/s/device, {speed}/device, MFU {used:.1%}"
    )


MIN_OPTIONS_WIDTH = 10
"""Narrowest column of options: its longest usual word, so that words break only where nothing else fits."""
_DEGREES = ("dp", "tp", "pp", "cp", "cp_a2a", "ep", "etp", "vp", "micro_batch")


def _ranking(question: Question, answer: Answer) -> Table:
    """Degrees as columns, those that no candidate uses left out; the rest of a plan in one column of options."""
    found = answer.candidates
    used = [
        name
        for name in _DEGREES
        if name in ("dp", "tp", "pp", "micro_batch") or any(getattr(candidate.plan, name) > 1 for candidate in found)
    ]
    simulated = any(candidate.simulated for candidate in found)
    risky = any(_is_risky(question, candidate) for candidate in found)
    level = error_bar(question, found[0].plan, 1.0).level_fraction
    sizes = {device.memory_bytes / GIB for device in accelerators_of(question.cluster)}
    capacity = " or ".join(f"{size:,.4g}" for size in sorted(sizes))
    made = table(
        ">#",
        *(f">{'mb' if name == 'micro_batch' else name}" for name in used),
        "options",
        *((">simulated",) if simulated else ()),
        ">estimate",
        f">{level:.0%} range",
        f">{items(question)}/s\n/device",
        ">MFU",
        f">GiB of\n{capacity}",
        *(("",) if risky else ()),
        ">slower",
    )
    options = made.columns[1 + len(used)]
    options.min_width, options.overflow = MIN_OPTIONS_WIDTH, "fold"
    for number, candidate in enumerate(found, start=1):
        cells = _ranking_row(question, candidate, found[0], used, simulated, risky)
        made.add_row(str(number), *cells, style="bold" if number == 1 else None)
    return made


def _ranking_row(
    question: Question, candidate: Candidate, best: Candidate, used: list[str], simulated: bool, risky: bool
) -> list[str]:
    plan, step_seconds = candidate.plan, float(candidate.step_seconds)
    played = [duration(candidate.simulated.step_seconds) if candidate.simulated else "-"] if simulated else []
    return [
        *(str(getattr(plan, name)) for name in used),
        options_words(plan),
        *played,
        duration(float(candidate.estimate.step_seconds)),
        span(error_bar(question, plan, step_seconds)),
        f"{tokens_per_second(step_seconds, question.job) / question.cluster.num_devices:,.0f}",
        f"{mfu(step_seconds, question.job, question.cluster):.1%}",
        f"{candidate.estimate.memory.peak_bytes / GIB:.1f}",
        *(["risky" if _is_risky(question, candidate) else ""] if risky else []),
        _behind(candidate, best),
    ]


def _is_risky(question: Question, candidate: Candidate) -> bool:
    """Whether the worst tenth of runs would not fit, though the median does."""
    return fit_of(candidate.estimate.memory, question.home(candidate.plan), question.stack) is Fit.RISKY


def _behind(candidate: Candidate, best: Candidate) -> str:
    """How much slower than the best, and whether that is within error."""
    if candidate is best:
        return ""
    slower = f"{float(candidate.step_seconds) / float(best.step_seconds) - 1.0:+.1%}"
    return f"tied {slower}" if is_tied(candidate, best) else slower


def options_words(plan: Plan) -> str:
    """Everything but the degrees; the schedule only where vp does not give it away, a layout only as uneven."""
    is_told = plan.vp > 1 and plan.schedule == "interleaved"
    words: list[str] = [plan.schedule] if plan.pp > 1 and not is_told else []
    words += ["uneven"] if plan.layout else []
    words += ["cp_gather"] if plan.cp_gather else []
    words += ["sp"] if plan.sequence_parallel else []
    words += [f"zero{plan.zero_stage}"] if plan.zero_stage else []
    words += [] if plan.reshard_after_forward else ["keep"]
    words += [f"x{plan.dp_replicate}"] if plan.dp_replicate > 1 else []
    words += [plan.recompute.name.lower()] if plan.recompute else []
    words += [plan.recompute_modules.words.replace(",", " ")] if plan.recompute_modules != Module.CORE_ATTN else []
    words += [f"{plan.recompute_layers}layers"] if plan.recompute_layers else []
    words += [f"offload:{plan.offload.words}"] if plan.offload else []
    words += [plan.order] if plan.order != USUAL_ORDER else []
    return " ".join(words)


def _breakdown_table(title: str, estimated: Breakdown, simulated: Breakdown | None) -> Table:
    """Parts that take any time, with a bar; two columns of seconds when there is a simulation."""
    shown = simulated or estimated
    step = float(shown.step_seconds)
    made = table("part", ">estimated", *((">simulated",) if simulated else ()), ">share", "", title=title)
    for part in PARTS:
        columns = [breakdown.parts()[part] for breakdown in (estimated, simulated) if breakdown]
        if max(columns) > 0.0:
            share = float(columns[-1]) / step
            made.add_row(PART_WORDS[part], *(duration(float(value)) for value in columns), f"{share:.1%}", bar(share))
    totals = [duration(float(one.step_seconds)) for one in (estimated, simulated) if one]
    made.add_row("step", *totals, "100.0%", "", style="bold")
    return made


def _show_next(console: Console, question: Question, plan: Plan, saved: Path | None) -> None:
    console.print("next", style="bold")
    if saved:
        file = shlex.quote(str(saved))
        lines = [f"meshwise simulate {file} --gantt step.png --trace step.json"]
        lines += [f"meshwise estimate {file}"] if plan.placement else [
            f"meshwise estimate {file} --explain", f"meshwise export {file} --to megatron"
        ]  # fmt: skip
    else:
        asked, flags = job_flags(question), split_flags(plan)
        lines = [f"meshwise plan {asked} --save plan.toml", "meshwise simulate plan.toml --gantt step.png",
                 f"meshwise estimate {asked} {flags}{'' if plan.placement else ' --explain'}"]  # fmt: skip
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)


def job_flags(question: Question) -> str:
    """The command-line options that ask the same question; defaults stay unsaid."""
    stated = question.table.model_dump(exclude={"kind", *question.assumed}, exclude_defaults=True)
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in stated.items())


def split_flags(plan: Plan) -> str:
    """The command-line options that say this split."""
    default = Plan()
    flags = []
    for name in (
        "tp", "pp", "cp", "cp_a2a", "ep", "etp", "vp", "micro_batch", "schedule", "zero_stage", "dp_replicate",
        "order",
    ):  # fmt: skip
        if getattr(plan, name) != getattr(default, name):
            flags.append(f"--{name.replace('_', '-')} {getattr(plan, name)}")
    flags += [f"--placement {shlex.quote(written_placement(plan.placement))}"] if plan.placement else []
    flags += ["--cp-gather"] if plan.cp_gather else []
    flags += ["--sequence-parallel"] if plan.sequence_parallel else []
    flags += [] if plan.reshard_after_forward else ["--no-reshard-after-forward"]
    flags += [f"--recompute {plan.recompute.name.lower()}"] if plan.recompute else []
    modules = plan.recompute_modules
    flags += [f"--recompute-modules {modules.words}"] if modules != Module.CORE_ATTN else []
    flags += [f"--recompute-layers {plan.recompute_layers}"] if plan.recompute_layers else []
    flags += [f"--offload {plan.offload.words}"] if plan.offload else []
    return " ".join(flags)
