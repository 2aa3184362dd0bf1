"""Guessing ahead: in how many iterations a request makes its tokens, when some guesses are right."""

from collections.abc import Callable

import numpy as np

from simulator.serving.spec import Speculation


def mean_tokens(speculation: Speculation) -> float:
    """Tokens an iteration makes on average, (1 - a^(k+1)) / (1 - a) [Leviathan 2023, arXiv:2211.17192, eq. 1]."""
    accepted = speculation.acceptance_fraction
    return float(sum(accepted**guess for guess in range(speculation.draft_tokens + 1)))


def steps_by_tokens(speculation: Speculation, generator: np.random.Generator) -> Callable[[int], int]:
    """A function of the tokens to make that draws the iterations it takes: each makes one, and those guessed right.

    A wrong guess voids those after it, so that the right ones are geometrically distributed up to all of them.
    """
    reached = np.zeros(1, dtype=np.int64)
    used = 0

    def steps(num_tokens: int) -> int:
        nonlocal reached, used
        target = reached[used] + num_tokens
        while reached[-1] < target:
            drawn = (
                generator.geometric(1.0 - speculation.acceptance_fraction, _DRAWN)
                if (speculation.acceptance_fraction < 1.0)
                else np.full(_DRAWN, speculation.draft_tokens + 1)
            )
            made = np.minimum(drawn, speculation.draft_tokens + 1)
            reached = np.concatenate((reached[used:], reached[-1] + np.cumsum(made)))
            used = 0
        end = int(np.searchsorted(reached, target))
        count, used = end - used, end
        return count

    return steps


_DRAWN = 65_536
"""Iterations drawn at a time."""
