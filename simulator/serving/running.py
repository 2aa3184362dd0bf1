"""Requests past their prompts: how many, over what contexts, and which is done next, without a look at each token."""

from heapq import heappop, heappush

from simulator.serving.blocks import Blocks

_GONE = (-1, 0)


class Running:
    """Requests that make tokens in every iteration; `step` counts those iterations."""

    __slots__ = ("_blocks", "_endings", "_last", "_rates", "contexts", "growth", "step")

    def __init__(self, blocks: Blocks | None) -> None:
        self._blocks = blocks
        """Grow with the contexts; None where the memory of whole requests is held from the start."""
        self._last: dict[int, tuple[int, int]] = {}
        """Request -> (step before which it is done, its context then); the one that came last is last."""
        self._rates: dict[int, float] = {}
        """Tokens an iteration of the requests for which that is not 1."""
        self._endings: list[tuple[int, int]] = []
        """(step, request) as a heap; those that left early are still in it."""
        self.contexts = 0.0
        """Sum of what the requests attend to in the next iteration."""
        self.growth = 0.0
        """What an iteration adds to it."""
        self.step = 0

    def __len__(self) -> int:
        return len(self._last)

    def join(self, request: int, context_tokens: int, num_tokens: int, num_iterations: int) -> None:
        """From the next iteration on `request` makes `num_tokens` in `num_iterations`."""
        rate = num_tokens / num_iterations
        if rate != 1.0:
            self._rates[request] = rate
        last = self.step + num_iterations
        self._last[request] = (last, context_tokens + num_tokens)
        heappush(self._endings, (last, request))
        self.contexts += context_tokens
        self.growth += rate
        if self._blocks is not None:
            self._blocks.join(context_tokens - 1, self.step)

    def advance(self, num_iterations: int) -> None:
        """Play that many iterations."""
        self.step += num_iterations
        self.contexts += self.growth * num_iterations

    def iterations_left(self) -> int:
        """Until the first of them is done."""
        endings, known = self._endings, self._last
        while known.get(endings[0][1], _GONE)[0] != endings[0][0]:
            heappop(endings)
        return endings[0][0] - self.step

    def ended(self) -> list[int]:
        """Drop those that are done by now, and return them."""
        done = []
        endings = self._endings
        while endings and endings[0][0] <= self.step:
            last, request = heappop(endings)
            if self._last.get(request, _GONE)[0] == last:
                self.drop(request)
                done.append(request)
        return done

    def drop(self, request: int) -> int:
        """Take `request` out; returns what it would attend to in the next iteration."""
        last, context = self._last.pop(request)
        rate = self._rates.pop(request, 1.0) if self._rates else 1.0
        context -= int(rate * (last - self.step))
        self.contexts -= context
        self.growth -= rate
        if self._blocks is not None:
            self._blocks.leave(context - 1, self.step)
        if not self._last:
            self.contexts = self.growth = 0.0
        return context

    def youngest(self) -> int:
        """The request that came last."""
        return next(reversed(self._last))

    def all(self) -> list[int]:
        """Every request, the one that came last last."""
        return list(self._last)
