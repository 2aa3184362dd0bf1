"""Prices of iterations measured alone: a line in the rows, requests, contexts and pairs of an iteration."""

from dataclasses import dataclass
from math import inf

import numpy as np
from scipy.optimize import nnls

from planner.serving import DecodeLine, Floats, IterationShape


@dataclass(frozen=True, slots=True)
class MeasuredPrices:
    """Prices of this machine, as `planner.serving.IterationPrices`."""

    base_seconds: float
    seconds_per_row: float
    """Of linear layers: each prompt token and each running request is one."""
    seconds_per_request: float
    seconds_per_context_token: float
    seconds_per_pair: float
    """Each prompt token with each token it attends to."""
    held_out_error_fraction: float
    """Median, of every second iteration measured, by the fit of the others."""

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Any iteration."""
        return float(np.dot(features(shape), self._coefficients))

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """One line for all contexts."""
        each = self.seconds_per_row + self.seconds_per_request
        return DecodeLine(self.base_seconds + each * num_decodes, self.seconds_per_context_token, inf)

    @property
    def _coefficients(self) -> tuple[float, ...]:
        return (self.base_seconds, self.seconds_per_row, self.seconds_per_request, self.seconds_per_context_token,
                self.seconds_per_pair)  # fmt: skip


def features(shape: IterationShape) -> tuple[float, ...]:
    """What the seconds of an iteration are linear in: 1, rows, requests, contexts of decodes, pairs of prompts."""
    new, past = np.array(shape.prefill_tokens, float), np.array(shape.prefill_past_tokens, float)
    pairs = float(np.sum(new * past + 0.5 * new * (new + 1.0)))
    num_requests = len(new) + shape.num_decodes
    return 1.0, float(shape.num_tokens), float(num_requests), shape.decode_context_tokens, pairs


def fitted(shapes: list[IterationShape], seconds: Floats) -> MeasuredPrices:
    """Least squares with coefficients that are not negative [Lawson 1974, chapter 23].

    Squares are over seconds, as if variances were in proportion to them: long iterations count, and do not rule.
    """
    rows = np.array([features(shape) for shape in shapes])
    weights = seconds**-0.5
    coefficients, _ = nnls(rows * weights[:, None], seconds * weights)
    half = slice(0, None, 2)
    trained, _ = nnls((rows * weights[:, None])[half], (seconds * weights)[half])
    errors = np.abs(rows[1::2] @ trained / seconds[1::2] - 1.0)
    base, row, request, context, pair = coefficients.tolist()
    return MeasuredPrices(base, row, request, context, pair, float(np.median(errors)) if len(errors) else 0.0)
