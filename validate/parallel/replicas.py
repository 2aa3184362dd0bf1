"""How ranks that hold the same parameters stay alike: gradients are reduced, parameters updated and gathered.

One way by what the plan shards: nothing (`Alone`, `Bucketed`), optimizer states or gradients too (`Flat`), or
parameters too (`validate.parallel.fsdp`).
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from planner.plan import Plan
from validate.models import Stage, is_expert
from validate.parallel.flat import Bucket, sum_over
from validate.parallel.groups import Axis, Groups
from validate.parallel.tensor import sequence_parameters

_LEARNING_RATE = 1e-3
"""High enough that three steps change the loss, so that an error in a gradient shows."""


class Replicas(Protocol):
    """What a trainer asks of the ranks that share its parameters."""

    modules: Sequence[nn.Module]
    """The stages of this rank, to be run in place of those given."""
    last_gradient: Any
    """The moment of the last gradient, if what follows it in a backward pass is waiting for a reduction."""

    def microbatch(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around the two directions of a microbatch."""

    def finish(self) -> None:
        """Reduce what is still partial, update, gather, and forget the gradients."""


def adamw(parameters: Iterable[Tensor]) -> Any:
    """The optimizer of every way to share parameters."""
    return torch.optim.AdamW(parameters, lr=_LEARNING_RATE, fused=True)


class Alone:
    """No rank shares these parameters: AdamW on them as they are. Under tp the norms' gradients may be partial."""

    def __init__(self, stages: Sequence[Stage], groups: Groups) -> None:
        self.modules: Sequence[nn.Module] = stages
        self.last_gradient: Any = None
        self.recorder = groups.recorder
        self.tensor_axis = groups["tp"]
        self.parameters = [parameter for stage in stages for parameter in stage.parameters()]
        self.partial = partial_parameters(stages, groups.plan)
        self.adam = adamw(self.parameters)

    def microbatch(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Nothing: gradients add up where they lie."""
        return contextlib.nullcontext()

    def finish(self) -> None:
        """Sum over tp what sequence parallelism left partial, and update."""
        sum_over([gradient_of(parameter) for parameter in self.partial], self.tensor_axis)
        with self.recorder.span("optimizer"):
            self.adam.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


class Bucketed(Alone):
    """DistributedDataParallel reduces gradients in buckets, beside the backward pass of the last microbatch."""

    def __init__(self, stages: Sequence[Stage], groups: Groups) -> None:
        super().__init__(stages, groups)
        (stage,) = stages
        self.parallel = DistributedDataParallel(stage, process_group=groups["dp"].group, gradient_as_bucket_view=True)
        self.modules = [self.parallel]
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._note_gradient)

    def microbatch(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of all but the last microbatch stay here."""
        self.last_gradient = None
        return contextlib.nullcontext() if is_last else self.parallel.no_sync()

    def forget(self) -> None:
        """Clear gradients where they lie in the buckets: others would lie beside the buckets."""
        torch._foreach_zero_([parameter.grad for parameter in self.parameters])

    def _note_gradient(self, _: Tensor) -> None:
        if self.parallel.require_backward_grad_sync:
            self.last_gradient = self.recorder.mark()


class Flat:
    """Gradients of each layer lie in one fp32 buffer, reduced as one message, and its parameters in another.

    zero_stage 0 all-reduces them; 1 reduce-scatters them once a step, updates a shard and gathers it; 2 does so
    after every backward pass, so that no whole gradient outlives its layer. Parameters in bf16 have an fp32 master
    copy of what this rank updates.
    """

    def __init__(self, modules: Sequence[nn.Module], buckets: Sequence[Bucket], groups: Groups) -> None:
        self.modules, self.buckets = modules, buckets
        self.last_gradient: Any = None
        self.recorder = groups.recorder
        self.adam = adamw([bucket.master for bucket in self.buckets])

    def microbatch(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Nothing: the buckets see gradients come."""
        return contextlib.nullcontext()

    def finish(self) -> None:
        """Reduce the buckets, update this rank's shards, gather them."""
        for bucket in self.buckets:
            bucket.reduce()
        with self.recorder.span("optimizer"):
            self.adam.step()
            for bucket in self.buckets:
                bucket.keep_update()
        for bucket in self.buckets:
            bucket.gather()


def flat(stages: Sequence[Stage], groups: Groups) -> Flat:
    """Every parameter of `stages` in a bucket of its layer."""
    partial = {id(parameter) for parameter in partial_parameters(stages, groups.plan)}
    buckets = [
        Bucket(parameters, partial, groups, axes) for stage in stages for parameters, axes in _layers(stage, groups)
    ]
    return Flat(stages, buckets, groups)


def _layers(stage: Stage, groups: Groups) -> Iterable[tuple[list[nn.Parameter], tuple[Axis, Axis]]]:
    """The parameters that are reduced as one, with the axes they are sharded and replicated over."""
    parts = [part for part in (stage.embedding, *stage.layers.values(), stage.head) if part is not None]
    seen: set[int] = set()  # tied weights belong to the part that comes first
    for part in parts:
        for experts, axis in ((False, "dp"), (True, "edp")):
            held = [
                parameter
                for name, parameter in part.named_parameters()
                if is_expert(name) == experts and id(parameter) not in seen
            ]
            seen |= {id(parameter) for parameter in held}
            if held and groups.plan.zero_stage:
                yield held, (groups[f"{axis}-shard"], groups[f"{axis}-replicate"])
            elif held:
                yield held, (groups.alone, groups[axis])


def partial_parameters(stages: Sequence[Stage], plan: Plan) -> list[nn.Parameter]:
    """Parameters whose gradients are partial sums over tp: under sequence parallelism a rank sees T / tp tokens."""
    if not (plan.sequence_parallel and plan.tp > 1):
        return []
    return [parameter for stage in stages for parameter in sequence_parameters(stage)]


def gradient_of(parameter: Any) -> Tensor:
    """The gradient of a parameter, or this rank's shard of it."""
    assert parameter.grad is not None
    shard: Tensor = parameter.grad.to_local() if hasattr(parameter.grad, "to_local") else parameter.grad
    return shard
