"""How far published runs lie from what was predicted for them: the source of every error bar."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import Field, model_validator

from profiles.record import Count, Fraction, NonNegative, Positive, Record, Sourced
from profiles.software import SoftwareStack

Regime = Literal["seen", "new", "unmeasured"]
"""How near the runs behind an error bar are: "seen": runs of the same stack and accelerator, predicted with constants
they had a part in; "new": runs predicted without any of their source; "unmeasured": runs predicted as if nobody had
measured a kernel of their accelerator."""


class Spread(Record):
    """Quantiles of measured over predicted step time of one group of runs.

    A source weighs as the square root of its runs: runs of one source resemble each other.
    """

    low_ratio: Positive
    high_ratio: Positive
    num_runs: Count
    num_sources: Count
    left_out_coverage_fraction: Fraction | None = None
    """Share of the runs of a source inside the interval that the other sources give, averaged over sources; None for
    one source."""

    @model_validator(mode="after")
    def _ordered(self) -> "Spread":
        if self.low_ratio > self.high_ratio:
            raise ValueError(f"low_ratio must be at most high_ratio ({self.high_ratio}), got {self.low_ratio}")
        return self


class Known(Record):
    """What the runs of one kind of stack on one accelerator have in them.

    Stacks are of a kind when they share the attention kernel and whether the host sets the pace of small operations.
    """

    stacks: tuple[str, ...]
    attention_kernel: str
    is_eager: bool
    accelerator: str
    sparse: bool
    precisions: tuple[str, ...]
    axes: tuple[str, ...]
    """Parallel axes in use, and "sharded" for ZeRO-2 and beyond."""
    max_devices: Count
    num_runs: Count
    num_sources: Count
    low_ratio: Positive | None = None
    high_ratio: Positive | None = None
    """Quantiles of measured over predicted of these runs, and a little of all others; None where these are too few
    to tell of a tenth of them, and all runs stand in."""


class PairSpread(Record):
    """How far the measured ratio of two plans of one job on one cluster lies from the predicted ratio."""

    miss_ratio: float = Field(ge=1.0, allow_inf_nan=False)
    """Pairs miss by less than this factor either way, but for the share that the record's level leaves out."""
    num_pairs: Count
    num_families: Count
    num_sources: Count
    left_out_coverage_fraction: Fraction | None = None


class MemorySpread(Record):
    """Quantiles of measured over predicted peak memory, by what the source read."""

    low_ratio: NonNegative
    high_ratio: Positive
    num_runs: Count
    num_sources: Count


class Residuals(Sourced):
    """Spreads of dense and of sparse (mixture-of-experts) models, by how near the runs are to what is predicted."""

    date: str
    level_fraction: Fraction = Field(gt=0)
    """Share of runs between the two quantiles."""
    dense: dict[Regime, Spread]
    sparse: dict[Regime, Spread]
    same_split: PairSpread
    """Pairs of plans with the same tp, pp, cp and ep."""
    other_split: PairSpread
    memory: dict[Literal["allocated", "reserved", "device"], MemorySpread] = Field(default_factory=dict)
    known: tuple[Known, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> "Residuals":
        for name, group in (("dense", self.dense), ("sparse", self.sparse)):
            for regime in ("seen", "new", "unmeasured"):
                if regime not in group:
                    raise ValueError(f"{name}: has {sorted(group)}, a spread named {regime} must be among them")
        return self

    def known_runs(self, stack: SoftwareStack, accelerator: str, *, sparse: bool) -> Known | None:
        """The runs of stacks like `stack` on `accelerator`, or None."""
        wanted = (*stack_kind(stack), accelerator, sparse)
        kinds = {(one.attention_kernel, one.is_eager, one.accelerator, one.sparse): one for one in self.known}
        return kinds.get(wanted)


def stack_kind(stack: SoftwareStack) -> tuple[str, bool]:
    """(attention kernel, whether launches cost host time): what runs of alike stacks share."""
    return stack.attention_kernel, stack.host_seconds_per_launch > 0.0


@cache
def shipped_residuals() -> Residuals:
    """The record that comes with the project."""
    text = (files("profiles") / "data" / "calibration" / "residuals.toml").read_text(encoding="utf-8")
    return Residuals(**tomllib.loads(text))
