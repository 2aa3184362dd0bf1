"""A traced plan as JSON. docs/json.md describes the keys."""

from typing import Any

from meshwise import jsonout
from meshwise.jobfile import Question
from planner.plan import Plan
from validate.trace.agree import Row
from validate.trace.report import Role, TraceReport


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
