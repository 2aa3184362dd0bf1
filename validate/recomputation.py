"""What a run recomputes, in a plan's words, from what its source says."""

import re
from typing import Any

from planner.recompute import Module, Recompute
from profiles.software import SoftwareStack
from validate.table import Run

_MODULES = re.compile(r"recompute[_-]modules=([a-z_+,]+)", re.IGNORECASE)
_EVERY_OTHER_LAYER = re.compile(r"\bselective layer\b", re.IGNORECASE)


class UnknownRecompute(ValueError):
    """A recomputation that is not one of a plan's."""


def recomputation_of(run: Run, stack: SoftwareStack) -> dict[str, Any]:
    """The plan fields that say what `run` recomputes; nothing stated is no recomputation.

    "Selective" is what the stack means by it, unless the row names modules or layers. Raises UnknownRecompute.
    """
    policy = run.recompute or "none"
    if policy not in ("none", "selective", "full"):
        raise UnknownRecompute(policy)
    if policy != "selective":
        return {"recompute": Recompute.parse(policy)}
    named = _MODULES.search(run.other_flags)
    if named:
        modules = Module.parse(named.group(1).replace("+", ","))
        return {"recompute": Recompute.SELECTIVE, "recompute_modules": modules}
    if _EVERY_OTHER_LAYER.search(run.other_flags):
        return _layers(run, 0.5)
    if stack.selective_recompute == "operators":
        return {"recompute": Recompute.OPERATORS}
    return {"recompute": Recompute.SELECTIVE}


def _layers(run: Run, share: float) -> dict[str, Any]:
    """Full recomputation of a share of the layers of every chunk."""
    each = (run.layers or 1) / ((run.pp or 1) * (run.vp or 1))
    return {"recompute": Recompute.FULL, "recompute_layers": max(1, round(share * each))}
