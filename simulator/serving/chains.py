"""Tasks of several steps: each step is a request to some model, made of the answers before it, and follows them.

Translate, answer, moderate: what a user waits for is the last token of the last step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from simulator.serving.arrivals import lengths
from simulator.serving.requests import Ints, Prefixes, Requests
from simulator.serving.result import Played

Takes = Literal["answer", "question", "all"]


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a task."""

    deployment: int
    """Which answers it."""
    takes: Takes = "answer"
    """What it reads: the answer before it, the question of the task, or the question and every answer so far."""
    added_tokens: int = 0
    """Of its own prompt, beside that."""
    output_tokens: int | None = None
    """Mean length of its answer; None: what the question says."""
    output_spread_fraction: float = 0.0


def chained(questions: Requests, task: Ints, tasks: Sequence[Sequence[Step]], draw: np.random.Generator) -> Requests:
    """The requests of every step, those of a question one after another; `task` says which each question is.

    Tenants of the result are those of the questions; what is cached of a question is of its first step.
    """
    num_steps = np.array([len(steps) for steps in tasks])[task]
    first = np.concatenate(([0], np.cumsum(num_steps)[:-1]))
    count = int(num_steps.sum())
    inputs, outputs = np.zeros(count, np.int64), np.zeros(count, np.int64)
    deployment = np.zeros(count, np.int64)
    for number, steps in enumerate(tasks):
        which = np.flatnonzero(task == number)
        question = questions.input_tokens[which]
        answer, so_far = np.zeros_like(question), question.copy()
        for place, step in enumerate(steps):
            at = first[which] + place
            read = question if place == 0 else {"answer": answer, "question": question, "all": so_far}[step.takes]
            answer = questions.output_tokens[which]
            if step.output_tokens is not None:
                answer = lengths(float(step.output_tokens), step.output_spread_fraction, len(which), draw)
            inputs[at], outputs[at], deployment[at] = read + step.added_tokens, answer, step.deployment
            so_far = so_far + answer
    cached = None
    if questions.cached_tokens is not None:
        cached = np.zeros(count, np.int64)
        cached[first] = questions.cached_tokens
    question_of = np.repeat(np.arange(len(questions)), num_steps)
    follower = np.arange(1, count + 1)
    follower[first + num_steps - 1] = -1
    return Requests(
        questions.arrival_seconds[question_of], inputs, outputs,
        tenant=questions.tenant_index[question_of], tenants=questions.tenants, cached_tokens=cached,
        prefixes=_of_first_steps(questions.prefixes, first, count), deployment=deployment, follower=follower,
    )  # fmt: skip


def _of_first_steps(prefixes: Prefixes | None, first: Ints, count: int) -> Prefixes | None:
    if prefixes is None:
        return None
    named = np.zeros(count, np.int64)
    named[first] = np.diff(prefixes.offsets)
    return replace(prefixes, offsets=np.concatenate(([0], np.cumsum(named))))


def whole_tasks(played: Played) -> Played:
    """One row a question: it arrives with its first step; its tokens are those of its last."""
    requests = played.requests
    heads = requests.heads
    if requests.follower is None:
        return played
    tails = np.append(heads[1:], len(requests)) - 1
    return Played(
        Requests(requests.arrival_seconds[heads], requests.input_tokens[heads], requests.output_tokens[tails],
                 tenant=requests.tenant_index[heads], tenants=requests.tenants),
        played.arrival_seconds[heads], played.first_token_seconds[tails], played.last_token_seconds[tails],
        np.minimum(np.add.reduceat(played.cached_tokens, heads), requests.input_tokens[heads]),
        np.add.reduceat(played.num_preemptions, heads), played.replica[tails],
        first_counted=int(np.searchsorted(heads, played.first_counted)), lives_seconds=played.lives_seconds,
    )  # fmt: skip
