"""Loads served for real beside the simulator's prediction of them, at prices of iterations measured alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.serving import IterationShape
from profiles.engine import EngineRecord
from profiles.model import TransformerShape
from simulator.serving.play import play
from simulator.serving.requests import Floats, Requests
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec
from validate.launch import Report, launch
from validate.serving.prices import MeasuredPrices, fitted

ENGINE = EngineRecord(name="meshwise", source="validate/serving/loop.py", library="torch")
"""Prompts in chunks beside running requests, first come first served; its host time is in the measured prices."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the requests of a load."""

    ttft_seconds: float
    tpot_seconds: float
    output_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One load."""

    requests: Requests
    measured: Figures
    predicted: Figures
    """At prices of iterations measured alone."""
    composed: Figures
    """At prices of this load's own iterations: what is still wrong is how they follow one another, not their prices."""
    prices: MeasuredPrices
    """Of iterations measured alone."""

    def error(self, figure: str, *, composed: bool = False) -> float:
        """Of a field of `Figures`: predicted over measured, less one."""
        said = getattr(self.composed if composed else self.predicted, figure)
        return float(said / getattr(self.measured, figure) - 1.0)


@dataclass(frozen=True, slots=True)
class Server:
    """What is started on this machine."""

    model: TransformerShape
    tp: int = 1
    num_slots: int = 16
    token_budget: int = 256
    pp: int = 1
    """Stages, through which one batch goes at a time."""


def check_servable(server: Server) -> None:
    """Raise ValueError for a model whose layers this server does not have, or that tp does not divide."""
    model, tp = server.model, server.tp
    if server.pp > model.num_layers:
        raise ValueError(f"pp: {server.pp} stages are more than the {model.num_layers} layers of {model.name}")
    if model.moe or model.mla or model.sliding_window:
        raise ValueError(
            f"model: {model.name} has experts, latent attention or windows; the server of validate runs plain decoders"
        )
    if model.num_kv_heads % tp or model.ffn_size % tp:
        raise ValueError(f"tp: {tp} does not divide the heads and the width of {model.name}")


def serve_and_predict(
    server: Server, loads: Sequence[Requests], *, repeats: int = 5, timeout_seconds: float = 600.0,
    oversubscribe: bool = False, on_progress: Report | None = None,
) -> list[Comparison]:  # fmt: skip
    """Serve every load in real time and predict it.

    Iterations are measured alone before and after each load, with nothing of the load in them; the prediction takes
    the mean of the two, for the machine may have been busier. Raises LaunchError as `validate.launch.launch`.
    """
    check_servable(server)
    values = {
        "model": server.model.model_dump(mode="json"), "tp": server.tp, "pp": server.pp,
        "num_slots": server.num_slots,
        "token_budget": server.token_budget, "repeats": repeats, "timeout_seconds": timeout_seconds,
        "loads": [_rows(load) for load in loads],
    }  # fmt: skip
    result = launch(
        run_rank, values, server.tp * server.pp, timeout_seconds=timeout_seconds, oversubscribe=oversubscribe,
        on_progress=on_progress,
    )[0]  # fmt: skip
    shapes = [_shape(one) for one in result["shapes"]]
    passes = np.array(result["seconds"])
    found = []
    for number, load in enumerate(loads):
        alone = fitted(shapes, 0.5 * (passes[number] + passes[number + 1]))
        own = result["iterations"][number]
        within = fitted([_shape(one) for one, _ in own], np.array([taken for _, taken in own]))
        first, last = np.array(result["answers"][number]).T
        measured = _figures(load, first, last)
        found.append(Comparison(load, measured, predicted(server, load, alone), predicted(server, load, within), alone))
    return found


def _shape(one: dict[str, Any]) -> IterationShape:
    new, past = tuple(one["prefill_tokens"]), tuple(one["prefill_past_tokens"])
    return IterationShape(new, past, one["num_decodes"], one["decode_context_tokens"])


def run_rank(values: dict[str, object], report: Report) -> dict[str, object]:
    """The body of a rank; imports torch there only."""
    from validate.serving.rank import run_rank as run

    return run(values, report)


def predicted(server: Server, load: Requests, prices: MeasuredPrices) -> Figures:
    """What the simulator says of `load`. Memory is no limit: every slot has room for the longest request."""
    longest = int(np.max(load.input_tokens + load.output_tokens))
    room = server.num_slots * (longest + ENGINE.block_tokens)
    replica = ReplicaSpec((prices,), room, ENGINE, server.token_budget, server.num_slots)
    played = play(load, [Deployment(PoolSpec(replica))])
    return _figures(load, played.first_token_seconds, played.last_token_seconds)


def _figures(load: Requests, first_token_seconds: Floats, last_token_seconds: Floats) -> Figures:
    gaps = load.output_tokens - 1
    several = gaps > 0
    tpot = (last_token_seconds - first_token_seconds)[several] / gaps[several]
    seconds = float(last_token_seconds.max() - load.arrival_seconds[0])
    ttft = float(np.mean(first_token_seconds - load.arrival_seconds))
    return Figures(ttft, float(np.mean(tpot)), float(load.output_tokens.sum()) / seconds)


def _rows(load: Requests) -> list[tuple[float, int, int]]:
    columns = (load.arrival_seconds, load.input_tokens, load.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))
