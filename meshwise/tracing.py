"""A trace from the command line, printed or as JSON (docs/json.md describes the keys)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshwise import asking, jsonout, screen
from meshwise.jobfile import Question
from meshwise.tables.tracing import show_trace
from planner.plan import Plan
from validate.trace.agree import Row
from validate.trace.report import Role, TraceReport, trace_plan


def trace(file: Path | None, job: Mapping[str, Any], split: Mapping[str, Any], *, whole: bool, as_json: bool) -> int:
    """Trace a plan; 1 when torch would do something that neither the planner says nor a reason names."""
    asked = asking.plan_question(file, job, split)
    question = asked.question
    with screen.progress() as on_progress:
        report = trace_plan(question.job, asked.plan, question.stack, whole=whole, on_progress=on_progress)
    if as_json:
        screen.print_json(document(question, asked.plan, report))
    else:
        show_trace(screen.console(), question, asked.plan, report)
    return 1 if report.num_faults else 0


def document(question: Question, plan: Plan, report: TraceReport) -> dict[str, Any]:
    """The document of `validate --trace --json`."""
    return {
        "job": jsonout.job(question),
        "plan": jsonout.plan_fields(plan),
        "traced": {
            "plan": jsonout.plan_fields(report.plan),
            "num_layers": report.job.model.num_layers,
            "num_microbatches": report.plan.num_microbatches(report.job.global_batch),
            "vocabulary_size": getattr(report.job.model, "vocabulary_size", None),
        },
        "roles": [_role(role) for role in report.roles],
        "num_faults": report.num_faults,
        "sources": jsonout.sources(question),
    }


def _role(role: Role) -> dict[str, Any]:
    return {
        "stage": role.stage,
        "num_stages": role.num_stages,
        "peak_bytes": role.peak_bytes,
        "figures": [_figure(row) for row in role.rows],
    }


def _figure(row: Row) -> dict[str, Any]:
    section, what, which = row.key
    return {
        "section": section,
        "what": what,
        "which": which or None,
        "estimated": row.estimated,
        "traced": row.traced,
        "unexplained": row.unexplained,
        "reasons": [{"amount": reason.amount, "reason": reason.words} for reason in row.reasons],
    }
