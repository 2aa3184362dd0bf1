"""What a run recomputes, in a plan's words, from what its source says."""

import re
from typing import Any

from planner.recompute import Module, Recompute
from profiles.software import SoftwareStack
from profiles.units import TERA
from validate.runs.table import Run

_MODULES = re.compile(r"recompute[_-]modules=([a-z_+,]+)", re.IGNORECASE)
_EVERY_OTHER_LAYER = re.compile(r"\bselective layer\b", re.IGNORECASE)


LAYERS_THRESHOLD_FRACTION = 0.1
"""Hardware FLOPs in excess of the model's by more than this share of a forward pass are recomputed layers."""
FORWARDS_PER_STEP = 3.0
"""Forward passes that the model FLOPs of a step are worth."""


class UnknownRecompute(ValueError):
    """A recomputation that is not one of a plan's."""


def recomputation_of(run: Run, stack: SoftwareStack, peak_flops_per_second: float) -> dict[str, Any]:
    """The plan fields that say what `run` recomputes; nothing stated is no recomputation.

    "Selective" is what the stack means by it, unless the row names modules or layers, or states how many hardware
    FLOPs it ran beside those of the model: with fused attention the excess is a share of the layers. Raises
    UnknownRecompute.
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
    share = _excess_fraction(run, peak_flops_per_second)
    if stack.attention_kernel != "unfused" and share > LAYERS_THRESHOLD_FRACTION:
        return _layers(run, min(share, 1.0))
    if stack.selective_recompute == "operators":
        return {"recompute": Recompute.OPERATORS}
    return {"recompute": Recompute.SELECTIVE}


def _excess_fraction(run: Run, peak_flops_per_second: float) -> float:
    """Hardware FLOPs in excess of the model's, as a share of a forward pass; 0 where the row does not state both."""
    model = run.model_tflops_per_gpu or (run.mfu or 0.0) * peak_flops_per_second / TERA
    if not (run.hw_tflops_per_gpu and model):
        return 0.0
    return FORWARDS_PER_STEP * (run.hw_tflops_per_gpu / model - 1.0)


def _layers(run: Run, share: float) -> dict[str, Any]:
    """Full recomputation of a share of the layers of every chunk."""
    each = (run.layers or 1) / ((run.pp or 1) * (run.vp or 1))
    return {"recompute": Recompute.FULL, "recompute_layers": max(1, round(share * each))}
