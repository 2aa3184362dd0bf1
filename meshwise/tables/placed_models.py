"""Several models placed on the devices of a job, as tables."""

from rich.console import Console

from meshwise.serving.placing import PlacedModels
from meshwise.tables.parts import share, table
from meshwise.tables.serving_plans import plan_words
from planner.choose.explain import duration
from planner.choose.together import Together


def show_placements(console: Console, found: PlacedModels) -> None:
    """What each model gets in the best placement, the others in a line each, and why a model has none."""
    names = [one.name or one.model for one in found.file.serving]
    for name, question in zip(names, found.questions, strict=True):
        console.print(
            f"{name}: {question.requests_per_second or 0.0:,.3g} requests/s of {question.lengths.input_tokens:,.0f} "
            f"tokens in and {question.lengths.output_tokens:,.0f} out, {question.engine.name}",
            markup=False,
        )
    if not found.ranked:
        console.print("the models do not fit together on these devices within the targets", style="bold")
        for reason, count in found.refused.items():
            console.print(f"{count:>6}  {reason}", markup=False)
        return
    is_priced = found.questions[0].is_priced
    made = table(">#", ">$ an hour" if is_priced else ">devices", "on", ">within targets")
    for number, one in enumerate(found.ranked):
        played = found.played[number] if number < len(found.played) else None
        where = ", ".join(f"{count} of {name}" for name, count in one.devices.items())
        within = "-" if played is None else share(played.runs[0].figures.attained_fraction.value)
        made.add_row(
            str(number + 1),
            f"{one.num_devices:,}" if one.dollars_per_hour is None else f"{one.dollars_per_hour:,.2f}",
            where,
            within,
        )
    console.print(made)
    if found.best is None:
        console.print("none of those that were played meets all targets", style="bold")
    _show_one(console, found, found.ranked[found.best or 0], names)


def _show_one(console: Console, found: PlacedModels, one: Together, names: list[str]) -> None:
    made = table("model", "deployment", ">first token, 99 % below", ">per token")
    several = bool(found.questions[0].others)
    for name, choice in zip(names, one.choices, strict=True):
        words = plan_words(choice.plan, names_clusters=several)
        times = (duration(choice.ttft_tail_seconds), duration(choice.tpot_seconds))
        made.add_row(name, words, *times)
    console.print()
    console.print(made)
    console.print(
        "Half a device: half of its time and memory, beside another. Times are closed forms of single steps; tasks of "
        "several steps are held to their targets by the simulation.",
        style="dim", markup=False,
    )  # fmt: skip
