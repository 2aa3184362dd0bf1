"""Prompts that wait beside running requests although there is room: for others to share their iteration.

Steps are iterations in which running requests make tokens, counted from the start.
"""

from collections.abc import Iterable
from typing import Protocol

from simulator.serving.spec import ReplicaSpec


class Hold(Protocol):
    """When prompts that wait are let into a batch."""

    ever: bool
    """Whether any prompt may have to wait."""
    holding: bool
    """Whether some waited when it was last asked."""

    def arrive(self, request: int) -> None:
        """`request` waits from now on."""

    def admit(self, request: int) -> None:
        """It is let into a batch."""

    def let_in(self, step: int) -> None:
        """A batch with prompts was formed."""

    def leave(self, request: int) -> None:
        """It is done, or has lost its place."""

    def holds(self, step: int, num_running: int, waiting_tokens: Iterable[int]) -> bool:
        """Whether those that wait go on doing so; asked whenever a batch is formed while some wait."""

    def iterations_left(self, step: int) -> int:
        """After how many iterations to ask again though nothing happens."""

    def clear(self) -> None:
        """All are lost."""


def hold_of(spec: ReplicaSpec) -> Hold:
    """As the engine of `spec` does it."""
    engine = spec.engine
    rows = 1 + (spec.speculation.draft_tokens if spec.speculation else 0)
    if spec.groups > 1 and engine.balance_wait_iterations:
        waits = (engine.balance_wait_iterations, engine.balance_gather_iterations)
        return GroupHold(spec.groups, *waits, spec.token_budget // spec.groups, rows)
    if spec.groups == 1 and engine.batch_wait_iterations:
        return BatchHold(engine.batch_wait_iterations, engine.batch_wait_budget_fraction * spec.token_budget, rows)
    return NoHold()


class NoHold:
    """Prompts run as soon as they can."""

    ever = holding = False

    def arrive(self, request: int) -> None:
        """Of no concern."""

    admit = leave = let_in = arrive

    def holds(self, step: int, num_running: int, waiting_tokens: Iterable[int]) -> bool:
        """Never."""
        return False

    def iterations_left(self, step: int) -> int:
        """None."""
        return 0

    def clear(self) -> None:
        """There is nothing to forget."""


class GroupHold:
    """Until every group of attention data parallelism has a prompt, or none has anything else to do.

    A counter of iterations runs whether prompts wait or not; when it reaches `limit`, those that wait are let in and it
    begins anew [NVIDIA/TensorRT-LLM, pyexecutor, attention_dp_config: timeout_iters and batching_wait_iters].
    """

    def __init__(self, num_groups: int, limit: int, gather: int, budget: int, rows_per_request: int) -> None:
        self.ever, self.holding = True, False
        self._limit, self._gather = limit, gather
        self._budget, self._rows = budget, rows_per_request
        self._left: list[int] = []
        """Of each group's budget for the batch that is formed."""
        self._num_groups = num_groups
        self.clear()

    def clear(self) -> None:
        """Every group is empty."""
        self._group: dict[int, int] = {}
        self._waiting, self._running = [0] * self._num_groups, [0] * self._num_groups
        self._begin = 0
        """Step at which the counter was 0."""
        self._gathers_since: int | None = None

    def arrive(self, request: int) -> None:
        """To the group that has fewest requests."""
        totals = [sum(pair) for pair in zip(self._waiting, self._running, strict=True)]
        self._group[request] = group = totals.index(min(totals))
        self._waiting[group] += 1

    def admit(self, request: int) -> None:
        """Its group runs it."""
        group = self._group[request]
        self._waiting[group] -= 1
        self._running[group] += 1

    def leave(self, request: int) -> None:
        """Its group has one less."""
        self._running[self._group.pop(request)] -= 1

    def open_budgets(self) -> None:
        """A batch is formed: every group has its budget but for the rows of its running requests."""
        self._left = [self._budget - self._rows * running for running in self._running]

    def takes(self, request: int, tokens: int) -> bool:
        """Whether the prompt of `request` fits into what its group has left, or is too long for any batch and alone."""
        group = self._group[request]
        is_first = self._left[group] == self._budget - self._rows * self._running[group]
        if tokens > self._left[group] and not (is_first and tokens > self._budget):
            return False
        self._left[group] -= tokens
        return True

    def holds(self, step: int, num_running: int, waiting_tokens: Iterable[int]) -> bool:
        """As the class says; with a prompt in every group, `gather` iterations longer."""
        self.holding = self._must_wait(step)
        return self.holding

    def _must_wait(self, step: int) -> bool:
        if not all(self._running):
            return False
        if not all(self._waiting):
            self._gathers_since = None
            return (step - self._begin) % self._limit != 0 or step == self._begin
        if self._gathers_since is None:
            self._gathers_since = step
        return step - self._gathers_since < self._gather

    def let_in(self, step: int) -> None:
        """The counter begins anew."""
        self._begin, self._gathers_since = step, None

    def iterations_left(self, step: int) -> int:
        """Until the counter is at its limit, or all have been gathered."""
        if self._gathers_since is not None:
            return max(self._gathers_since + self._gather - step, 1)
        return self._limit - (step - self._begin) % self._limit


class BatchHold:
    """Until a batch with the prompts that wait fills `enough_tokens`, for `limit` iterations at most.

    [NVIDIA/TensorRT-LLM docs, llm_args: batch_wait_timeout_iters, batch_wait_max_tokens_ratio]
    """

    def __init__(self, limit: int, enough_tokens: float, rows_per_request: int) -> None:
        self.ever, self.holding = True, False
        self._limit, self._enough_tokens, self._rows = limit, enough_tokens, rows_per_request
        self._since: int | None = None

    def clear(self) -> None:
        """Nobody waits."""
        self.holding, self._since = False, None

    def arrive(self, request: int) -> None:
        """Counted when it is asked."""

    def admit(self, request: int) -> None:
        """Of no concern."""

    def let_in(self, step: int) -> None:
        """Others that wait begin anew."""
        self._since = None

    def leave(self, request: int) -> None:
        """Of no concern."""

    def holds(self, step: int, num_running: int, waiting_tokens: Iterable[int]) -> bool:
        """As the class says."""
        if self._since is None:
            self._since = step
        late = step - self._since >= self._limit
        self.holding = num_running > 0 and not late
        if self.holding:
            self.holding = num_running * self._rows + sum(waiting_tokens) < self._enough_tokens
        return self.holding

    def iterations_left(self, step: int) -> int:
        """Until they have waited long enough."""
        return self._limit if self._since is None else max(self._since + self._limit - step, 1)
