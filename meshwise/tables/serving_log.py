"""The score of an engine's log as a table for people."""

from rich.console import Console

from meshwise.tables.parts import share, table
from profiles.units import MILLI
from validate.score.serving.log import LogScore

TITLES = {"ttft": "time to first token", "tpot": "time per output token", "e2e": "end to end"}


def show_log(console: Console, score: LogScore) -> None:
    """What was served, and each time as the log has it beside the prediction."""
    source = "stated by the log" if score.kv_tokens_are_stated else "by the memory model"
    console.print(
        f"{score.requests:,} requests to {score.model} on {score.cluster}, {score.plan}, engine {score.engine}"
    )
    console.print(f"room for keys and values of {score.kv_tokens:,} tokens, {source}")
    made = table("time", "of the requests", ">measured", ">predicted", ">error")
    for name, figures in score.times.items():
        for of, one in figures.items():
            cells = (f"{seconds / MILLI:,.1f} ms" for seconds in (one.measured_seconds, one.predicted_seconds))
            made.add_row(TITLES[name] if of == "mean" else "", of, *cells, f"{100.0 * one.error_fraction:+.1f}%")
    console.print(made)
    errors = ", ".join(f"{TITLES[name]} {share(error)}" for name, error in score.request_error_fraction.items())
    console.print(f"median absolute error of single requests: {errors}")
