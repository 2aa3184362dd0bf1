"""How far published runs lie from what was predicted for them: the source of every error bar."""

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import Field, model_validator

from profiles.record import Count, Fraction, Positive, Record, Sourced


class Spread(Record):
    """Quantiles of measured over predicted step time of one group of runs.

    A source weighs as the square root of its runs: runs of one source resemble each other.
    """

    low_ratio: Positive
    high_ratio: Positive
    num_runs: Count
    num_sources: Count
    left_out_coverage_fraction: Fraction
    """Share of the runs of a source inside the interval that the other sources give, averaged over sources."""

    @model_validator(mode="after")
    def _ordered(self) -> "Spread":
        if self.low_ratio > self.high_ratio:
            raise ValueError(f"low_ratio must be at most high_ratio ({self.high_ratio}), got {self.low_ratio}")
        return self


class Residuals(Sourced):
    """Spreads of dense and of sparse (mixture-of-experts) models, by accelerator where it has runs of its own."""

    date: str
    level_fraction: Fraction = Field(gt=0)
    """Share of runs between the two quantiles."""
    dense: dict[str, Spread]
    """By accelerator; "pool" is all of them together and serves accelerators without runs."""
    sparse: dict[str, Spread]

    @model_validator(mode="after")
    def _pooled(self) -> "Residuals":
        for name, group in (("dense", self.dense), ("sparse", self.sparse)):
            if "pool" not in group:
                raise ValueError(f"{name}: has {sorted(group)}, a spread named pool must be among them")
        return self

    def spread(self, accelerator: str, *, sparse: bool) -> tuple[Spread, str]:
        """The spread for runs on `accelerator` and the name it is filed under, "pool" where it has none."""
        group = self.sparse if sparse else self.dense
        name = accelerator if accelerator in group else "pool"
        return group[name], name


@cache
def shipped_residuals() -> Residuals:
    """The record that comes with the project."""
    text = (files("profiles") / "data" / "calibration" / "residuals.toml").read_text(encoding="utf-8")
    return Residuals(**tomllib.loads(text))
