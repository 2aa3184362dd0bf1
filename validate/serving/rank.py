"""One rank of the server: the first decides what every iteration runs and tells the others."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from planner.serving import IterationShape
from profiles.model import TransformerShape
from validate.measure import keep_freed_memory, settle_process
from validate.serving.loop import Asked, serve
from validate.serving.model import Piece, ServedModel
from validate.worker import Report, join

STOP = -1


def run_rank(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """Measure iterations alone, serve each load, and measure them again.

    `values`: `model` (a TransformerShape), `tp`, `pp`, `num_slots`, `token_budget`, `loads` (of requests), `repeats`.
    The result of the first rank has `shapes`, their `seconds` before, between and after the loads, the `iterations`
    of each load (shape and seconds) and its `answers`; that of the others nothing.
    """
    settle_process(torch.device("cpu"))
    keep_freed_memory()
    tp, pp = int(values["tp"]), int(values["pp"])
    join(torch.device("cpu"), tp * pp, float(values["timeout_seconds"]))
    try:
        shape = TransformerShape.model_validate(values["model"])
        loads = [[Asked(*row) for row in load] for load in values["loads"]]
        longest = max(one.input_tokens + one.output_tokens for load in loads for one in load)
        slots = int(values["num_slots"])
        model = ServedModel(shape, slots, longest, dist.get_rank(), tp, pp)
        if dist.get_rank():
            _follow(model, slots)
            return {}
        return _lead(model, values, loads, longest, report)
    finally:
        dist.destroy_process_group()


def _lead(
    model: ServedModel, values: dict[str, Any], loads: list[list[Asked]], longest: int, report: Report
) -> dict[str, Any]:
    slots, budget = int(values["num_slots"]), int(values["token_budget"])

    def iterate(pieces: list[Piece]) -> None:
        if model.tp * model.pp > 1:
            message = torch.full((1 + 4 * slots,), len(pieces), dtype=torch.int64)
            message[1 : 1 + 4 * len(pieces)] = torch.tensor(pieces, dtype=torch.int64).flatten()
            dist.broadcast(message, src=0)
        model.iterate(pieces)

    own: list[list[tuple[list[Piece], float]]] = []

    def timed(pieces: list[Piece]) -> None:
        begin = time.perf_counter()
        iterate(pieces)
        own[-1].append((pieces, time.perf_counter() - begin))

    grid = probes(slots, budget, longest)
    seconds = []
    answers = []
    report("measuring iterations")
    seconds.append(_measure(grid, iterate, int(values["repeats"])))
    for number, load in enumerate(loads):
        report(f"serving load {number + 1} of {len(loads)}")
        own.append([])
        answers.append(serve(load, timed, num_slots=slots, token_budget=budget))
        seconds.append(_measure(grid, iterate, int(values["repeats"])))
    if model.tp * model.pp > 1:
        dist.broadcast(torch.full((1 + 4 * slots,), STOP, dtype=torch.int64), src=0)
    return {
        "shapes": [asdict(_shape(pieces)) for pieces in grid],
        "seconds": seconds,
        "iterations": [[(asdict(_shape(pieces)), taken) for pieces, taken in load] for load in own],
        "answers": [[(one.first_token_seconds, one.last_token_seconds) for one in load] for load in answers],
    }


def _follow(model: ServedModel, slots: int) -> None:
    """Run what the first rank says until it says to stop."""
    message = torch.zeros(1 + 4 * slots, dtype=torch.int64)
    while True:
        dist.broadcast(message, src=0)
        count = int(message[0])
        if count == STOP:
            return
        rows = message[1 : 1 + 4 * count].view(count, 4).tolist()
        model.iterate([Piece(slot, past, new, bool(is_prompt)) for slot, past, new, is_prompt in rows])


def probes(slots: int, budget: int, longest: int) -> list[list[Piece]]:
    """Iterations to measure alone: prompts of several lengths, running requests at several contexts, and mixtures."""
    lengths = sorted({int(length) for length in np.geomspace(8, min(budget, longest - 1), 5)})
    counts = sorted({int(count) for count in np.geomspace(1, slots, 5)})
    grid = [[Piece(0, 0, length, True)] for length in lengths]
    grid += [[Piece(0, length, min(length, longest - length, budget), True)] for length in lengths[:-1]]
    for count in counts:
        for context in (8, longest // 2, longest - 1):
            grid.append([Piece(slot, context, 1, False) for slot in range(count)])
        if count > 1:
            decodes = [Piece(slot, longest // 4, 1, False) for slot in range(1, count)]
            grid.append([*decodes, Piece(0, 0, lengths[len(lengths) // 2], True)])
    return grid


def _measure(grid: list[list[Piece]], iterate: Any, repeats: int) -> list[float]:
    """Median seconds of each, in passes over all, so that a busy moment of the machine meets all alike."""
    taken = np.empty((repeats + 1, len(grid)))
    for repeat in range(repeats + 1):
        for number, pieces in enumerate(grid):
            begin = time.perf_counter()
            iterate(pieces)
            taken[repeat, number] = time.perf_counter() - begin
    return [float(value) for value in np.median(taken[1:], axis=0)]


def _shape(pieces: list[Piece]) -> IterationShape:
    """The same in the planner's words."""
    prompts = [piece for piece in pieces if piece.is_prompt]
    decodes = [piece for piece in pieces if not piece.is_prompt]
    return IterationShape(
        tuple(piece.new for piece in prompts), tuple(piece.past for piece in prompts), len(decodes),
        float(sum(piece.past + 1 for piece in decodes)),
    )  # fmt: skip
