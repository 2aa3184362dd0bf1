"""A tensor kept for the backward pass, and which recomputation lets go of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid
from planner.recompute import Module, Recompute
from planner.work.ops import Numbers


@dataclass(frozen=True, slots=True)
class Policy:
    """What one layer is recomputed by: fields of a plan, or columns of a grid."""

    recompute: Any
    modules: Any
    layers_fraction: Any
    """Share of the layers that full recomputation covers."""

    @classmethod
    def of(cls, split: Plan | PlanGrid, layers_fraction: Any) -> "Policy":
        """The policy of a plan for its layers."""
        return cls(split.recompute, split.recompute_modules, layers_fraction)

    @classmethod
    def none(cls, split: Plan | PlanGrid) -> "Policy":
        """Nothing is computed again, as in the embedding and the head."""
        return cls(Recompute.NONE * np.ones_like(split.recompute), split.recompute_modules, 1.0)


@dataclass(frozen=True, slots=True)
class Saved:
    """One tensor kept for the backward pass: its bytes on one rank, and what drops it."""

    name: str
    num_bytes: Numbers
    modules: Module = Module.NOTHING
    """Any of these, recomputed, drops it."""
    is_input: bool = False
    """The input from which a layer is computed again: every policy keeps it."""
    operators_fraction: float = 0.0
    """Share of it that recomputation by operators keeps."""
    only_operators: bool = False
    """Kept by recomputation by operators, and by nothing else."""

    def kept_bytes(self, policy: Policy) -> Numbers:
        """Bytes kept under `policy`, in the mean over layers where it covers some of them."""
        if self.is_input:
            return self.num_bytes
        return self.num_bytes * np.select(
            [np.equal(policy.recompute, member) for member in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL)],
            [self._plain, self._plain * self._outside(policy.modules), self._plain * (1.0 - policy.layers_fraction)],
            self.operators_fraction,
        )

    def recomputed_bytes(self, policy: Policy) -> Numbers:
        """Bytes that come back to life while the backward pass computes a layer again."""
        whole = Policy(policy.recompute, policy.modules, np.greater(policy.layers_fraction, 0.0) * 1.0)
        return np.maximum(self._plain * self.num_bytes - self.kept_bytes(whole), 0.0)

    @property
    def kept_by(self) -> str:
        """The policies that keep it, in words."""
        if self.is_input:
            return "every policy"
        if self.only_operators:
            return "operators"
        words = ["none", f"selective without {self.modules.words}" if self.modules else "selective"]
        return ", ".join(words + (["operators"] if self.operators_fraction else []))

    @property
    def _plain(self) -> float:
        return 0.0 if self.only_operators else 1.0

    def _outside(self, modules: Any) -> Any:
        return np.equal(np.bitwise_and(modules, int(self.modules)), 0) * 1.0
