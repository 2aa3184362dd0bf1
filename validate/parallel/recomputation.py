"""Recomputation of the layers of a stage: whole layers, modules of them, or every second product."""

from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from planner.plan import Plan
from planner.recompute import Recompute
from validate.models import Stage


def recompute(stage: Stage, plan: Plan) -> None:
    """Keep less of each layer of `stage` and run it again in the backward pass; call after `tensor_parallel`.

    Full recomputation keeps the inputs of the first `recompute_layers` layers (0: of all).
    """
    if plan.recompute == Recompute.FULL:
        names = list(stage.layers)[: plan.recompute_layers or None]
        for name in names:
            stage.layers[name] = checkpoint_wrapper(stage.layers[name])
