"""The loop of the server: requests that have arrived wait, prompts run in chunks beside the running requests."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from validate.serving.model import Piece

Iterate = Callable[[list[Piece]], None]
"""Runs one iteration on all ranks."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and when it comes after the start."""

    arrival_seconds: float
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Answer:
    """What became of a request, on the clock of the start."""

    asked: Asked
    slot: int = -1
    stored: int = 0
    """Tokens whose keys and values are kept."""
    made: int = 0
    first_token_seconds: float = 0.0
    last_token_seconds: float = 0.0


def serve(requests: Sequence[Asked], iterate: Iterate, *, num_slots: int, token_budget: int) -> list[Answer]:
    """Answer `requests`, in order of arrival, as they come in real time.

    Every iteration takes one token of each running request and fills the budget with prompts, the first ones first;
    a prompt longer than what is left is cut. At most `num_slots` requests run at a time.
    """
    answers = [Answer(request) for request in requests]
    coming, waiting = deque(answers), deque[Answer]()
    running: list[Answer] = []
    free = list(range(num_slots))
    start = time.perf_counter()
    while coming or waiting or running:
        now = time.perf_counter() - start
        while coming and coming[0].asked.arrival_seconds <= now:
            waiting.append(coming.popleft())
        while waiting and free:
            waiting[0].slot = free.pop()
            running.append(waiting.popleft())
        chosen = _chosen(running, token_budget)
        if not chosen:
            time.sleep(max(coming[0].asked.arrival_seconds - now, 0.0))
            continue
        iterate([piece for _, piece in chosen])
        now = time.perf_counter() - start
        for answer, piece in chosen:
            if _made_a_token(answer, piece, now):
                running.remove(answer)
                free.append(answer.slot)
    return answers


def _chosen(running: list[Answer], token_budget: int) -> list[tuple[Answer, Piece]]:
    """The requests of the next iteration and what is run of each."""
    chosen = [(one, Piece(one.slot, one.stored, 1, False)) for one in running if one.made]
    budget = token_budget - len(chosen)
    for one in running:
        left = one.asked.input_tokens - one.stored
        if not one.made and budget > 0:
            new = min(left, budget)
            chosen.append((one, Piece(one.slot, one.stored, new, True)))
            budget -= new
    return chosen


def _made_a_token(answer: Answer, piece: Piece, now: float) -> bool:
    """Account for a piece; returns whether the answer is whole."""
    answer.stored += piece.new
    if answer.stored < answer.asked.input_tokens:
        return False
    answer.made += 1
    if answer.made == 1:
        answer.first_token_seconds = now
    answer.last_token_seconds = now
    return answer.made == answer.asked.output_tokens
