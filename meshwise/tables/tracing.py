"""A traced plan as tables: estimated | traced, with a reason for every difference."""

from rich.console import Console
from rich.table import Table

from meshwise.jobfile import Question
from meshwise.tables.parts import table
from meshwise.tables.plans import show_question
from planner.plan import Plan
from profiles.units import GIB, KIB, MIB, TERA
from validate.trace.agree import Row
from validate.trace.report import Role, TraceReport

_TITLES = {"flops": "FLOPs of a step", "messages": "bytes sent in a step", "memory": "bytes held"}


def show_trace(console: Console, question: Question, plan: Plan, report: TraceReport) -> None:
    """One table a kind of rank, and whether all differences have a reason."""
    show_question(console, question)
    console.print(f"{plan}, traced on {plan.num_ranks:,} pretended ranks", markup=False)
    console.print(_extent(question, plan, report), markup=False)
    for role in report.roles:
        console.print()
        console.print(_title(role, plan), style="bold", markup=False)
        console.print(_figures(role))
    console.print()
    console.print(_verdict(report), style="bold", markup=False)


def _extent(question: Question, plan: Plan, report: TraceReport) -> str:
    """How much of the job was traced."""
    whole, small = question.job, report.job
    microbatches = plan.num_microbatches(whole.global_batch), plan.num_microbatches(small.global_batch)
    words = (
        f"figures are of {small.model.num_layers} of {whole.model.num_layers} layers and {microbatches[1]} of "
        f"{microbatches[0]:,} microbatches, which repeat"
    )
    rows = (getattr(model, "vocabulary_size", 0) for model in (whole.model, small.model))
    before, after = rows
    return words + (f"; the vocabulary is padded from {before:,} to {after:,}" if before != after else "")


def _title(role: Role, plan: Plan) -> str:
    if plan.pp == 1:
        return "a rank"
    same = f" and {role.num_stages - 1} like it" if role.num_stages > 1 else ""
    return f"a rank of pipeline stage {role.stage}{same}"


def _figures(role: Role) -> Table:
    made = table("", ">estimated", ">traced", "difference")
    section = ""
    for row in role.rows:
        if row.key[0] != section:
            section = row.key[0]
            made.add_row(_TITLES[section], style="dim")
        name = " ".join(filter(None, (row.key[1], row.key[2].replace("_", "-"))))
        reasons = [f"{_amount(section, reason.amount, sign='+')} {reason.words}" for reason in row.reasons]
        if row.unexplained:
            reasons.append(f"{_amount(section, row.unexplained, sign='+')} WITHOUT A REASON")
        figures = (_amount(section, row.estimated), _amount(section, row.traced))
        made.add_row(f"  {name}", *figures, "\n".join(reasons) or _equal(row))
    made.add_row("  most at once, before the update", "", _amount("memory", role.peak_bytes), "not compared")
    return made


def _equal(row: Row) -> str:
    return "equal" if row.traced == row.estimated else "equal but for rounding"


def _amount(section: str, amount: float, sign: str = "") -> str:
    if section == "flops":
        return f"{amount / TERA:{sign},.4f} TFLOP"
    size = abs(amount)
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{amount / unit:{sign},.3f} {name}"
    return f"{amount:{sign},.0f} B"


def _verdict(report: TraceReport) -> str:
    num_figures = sum(len(role.rows) for role in report.roles)
    if not report.num_faults:
        return f"all {num_figures} figures are equal, or differ for the reasons given"
    return f"{report.num_faults} of {num_figures} figures differ without a reason: the estimate, or the trace, is wrong"
