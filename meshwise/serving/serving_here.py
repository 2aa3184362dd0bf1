"""`meshwise validate` of a serving job: its requests served by the small server of this machine, and predicted."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from meshwise.serving.jobfile import ServedTable, ServingFile, read
from meshwise.serving.traffic import traffic
from meshwise.tables.parts import table
from planner.choose.explain import duration
from profiles import catalog
from profiles.model import TransformerShape
from validate.serving.compare import Comparison, Server, serve_and_predict

DEFAULT_SLOTS, DEFAULT_BUDGET = 16, 256
"""Of the small server, where the job says nothing: an engine's own would be more than a few cores can use."""
MEANT = {"name", "model", "tp", "pp", "max_sequences", "token_budget"}
"""Fields of `[serving]` that this server knows."""


@dataclass(frozen=True, slots=True)
class ServedHere:
    """What was served, and how the prediction fared, by seed."""

    server: Server
    comparisons: Sequence[Comparison]


def validate(
    path: Path, timeout_seconds: float, oversubscribe: bool, on_progress: Callable[[str], None] | None
) -> ServedHere:
    """Serve the job in `path` in real time, once for each of its seeds.

    Raises ValueError for what the small server cannot do, and LaunchError as `validate.launch.launch`.
    """
    file = read(path)
    server = _server(file)
    loads = [traffic(file.load, seed) for seed in range(file.load.seed, file.load.seed + file.load.runs)]
    comparisons = serve_and_predict(
        server, loads, timeout_seconds=timeout_seconds, oversubscribe=oversubscribe, on_progress=on_progress
    )
    return ServedHere(server, comparisons)


def _server(file: ServingFile) -> Server:
    if len(file.serving) > 1 or file.task:
        raise ValueError("serving, task: the server of validate runs one model and one step; leave the rest out")
    if file.load.concurrency is not None:
        raise ValueError("load.concurrency: the server of validate plays arrivals; state requests_per_second or trace")
    if file.load.cached_fraction:
        raise ValueError("load.cached_fraction: the server of validate caches no prefixes; leave it out")
    only: ServedTable = file.serving[0]
    unknown = only.model_fields_set - MEANT
    if unknown:
        raise ValueError(
            f"serving.{min(unknown)}: the server of validate knows {', '.join(sorted(MEANT))}; leave the rest out"
        )
    model = catalog.model(only.model)
    if not isinstance(model, TransformerShape):
        raise ValueError(f"model: {model.name} is a plain list of layers; a served model makes tokens")
    return Server(model, only.tp, only.max_sequences or DEFAULT_SLOTS, only.token_budget or DEFAULT_BUDGET, only.pp)


ROWS = (("ttft_seconds", "time to first token"), ("tpot_seconds", "time per output token"),
        ("output_tokens_per_second", "output tokens/s"))  # fmt: skip


def show(console: Console, found: ServedHere) -> None:
    """A table for each seed."""
    server = found.server
    console.print(
        f"{server.model.name} on this machine, tp {server.tp}, pp {server.pp}, at most {server.num_slots} requests and "
        f"{server.token_budget} tokens an iteration, fp32",
        style="bold", markup=False,
    )  # fmt: skip
    for one in found.comparisons:
        seconds = one.requests.arrival_seconds[-1]
        columns = (">measured", ">predicted", ">error", ">error at own prices")
        made = table(f"{len(one.requests):,} requests in {seconds:.3g} s", *columns)
        for field, name in ROWS:
            cells = [getattr(figures, field) for figures in (one.measured, one.predicted)]
            words = [f"{cell:,.1f}" if "tokens" in field else duration(cell) for cell in cells]
            made.add_row(name, *words, f"{one.error(field):+.1%}", f"{one.error(field, composed=True):+.1%}")
        console.print()
        console.print(made)
    console.print(
        "predicted: by the simulator at prices of iterations measured alone, before and after the load; own prices: of "
        "the load's own iterations, so that what is left is how they follow one another",
        style="dim", markup=False,
    )  # fmt: skip


def document(found: ServedHere) -> dict[str, Any]:
    """The document of `validate --json` for a serving job."""
    server = found.server
    return {
        "server": {"model": server.model.name, "tp": server.tp, "pp": server.pp, "max_sequences": server.num_slots,
                   "token_budget": server.token_budget},
        "loads": [
            {
                "num_requests": len(one.requests),
                "measured": asdict(one.measured),
                "predicted": asdict(one.predicted),
                "error_fraction": {field: one.error(field) for field, _ in ROWS},
                "error_fraction_at_own_prices": {field: one.error(field, composed=True) for field, _ in ROWS},
                "prices": asdict(one.prices),
            }
            for one in found.comparisons
        ],
    }  # fmt: skip
