"""What is fitted to measured requests: constants of an engine record, and what kernels take on one machine.

Each constant is believed to be near the catalog's, as wide as its spread, and what was measured to be met up to a noise
(a regularised least squares): what a measurement does not tell stays as it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from profiles.engine import EngineRecord, KernelKind

Floats = NDArray[np.float64]

SMALLEST_SECONDS = 1e-7
"""What a constant of 0 starts from."""
_PRODUCTS: Mapping[str, tuple[KernelKind, ...]] = {
    "dense": ("gemm", "elementwise"), "sparse": ("gemm", "elementwise", "experts")
}  # fmt: skip
"""Kinds whose time one load cannot tell apart."""
_PROMPTS = {"dense": "prompt_time_factor", "sparse": "sparse_prompt_time_factor"}
_STEP, _NUM_TRIES = 0.1, 6
"""Of a constant's spread for a slope, well above the steps that play makes; and tries."""
_TOLERANCE = 1e-3
_FURTHEST = 4.0
"""Spreads that a constant may be from the catalog's."""


@dataclass(frozen=True, slots=True)
class Constant:
    """What is fitted together: time factors of some kinds of kernels, or one field of the record."""

    log_spread: float
    kinds: tuple[KernelKind, ...] = ()
    field: str = ""


def constants_of(
    kinds: Iterable[str], *, has_messages: bool, at_client: bool, known_machine: bool
) -> Iterator[Constant]:
    """What requests to "dense" or "sparse" models tell of: of messages where ranks send some, of the front end where a
    client took the times.

    On a machine like those that the record was fitted on (`known_machine`) less is believed to differ.
    """
    models = sorted(set(kinds))
    share = _KNOWN_SHARE if known_machine else 1.0
    yield Constant(0.25 * share, kinds=_PRODUCTS[models[-1]])
    yield Constant(0.25 * share, kinds=("prefill", "decode"))
    if has_messages:
        yield Constant(0.5 * share, kinds=("message",))
    yield from (Constant(0.25 * share, field=_PROMPTS[kind]) for kind in models)
    yield Constant(share, field="host_seconds_per_sequence")
    if at_client:
        yield Constant(share, field="front_end_seconds")
        yield Constant(share, field="front_end_seconds_per_request")


_KNOWN_SHARE = 0.4
"""Of the spreads elsewhere: kernels by a tenth, which is what records are off by on unseen runs."""


def most_probable(
    engine: EngineRecord, constants: Sequence[Constant], errors: Callable[[EngineRecord], Floats]
) -> EngineRecord:
    """`engine` with the constants that make `errors` of it, in units of their noise, and their own changes least.

    Odd measurements count by their size, not its square (soft_l1).
    """
    spreads = np.array([one.log_spread for one in constants])

    def residuals(units: Floats) -> Floats:
        return np.concatenate([errors(_engine_at(engine, constants, units * spreads)), units])

    def slopes(units: Floats) -> Floats:
        here = residuals(units)
        return np.stack([residuals(units + step) - here for step in _STEP * np.eye(len(units))], axis=1) / _STEP

    found = least_squares(
        residuals, np.zeros(len(constants)), slopes, loss="soft_l1", bounds=(-_FURTHEST, _FURTHEST),
        max_nfev=_NUM_TRIES, ftol=_TOLERANCE, xtol=_TOLERANCE,
    )  # fmt: skip
    return _engine_at(engine, constants, found.x * spreads)


def _engine_at(engine: EngineRecord, constants: Sequence[Constant], logarithms: Floats) -> EngineRecord:
    factors: dict[KernelKind, float] = dict(engine.time_factors)
    fields: dict[str, float] = {}
    for one, change in zip(constants, np.exp(logarithms).tolist(), strict=True):
        factors |= {kind: _rounded(factors.get(kind, 1.0) * change) for kind in one.kinds}
        if one.field:
            fields[one.field] = _rounded(max(getattr(engine, one.field), SMALLEST_SECONDS) * change)
    return engine.model_copy(update={**fields, "time_factors": factors})


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
