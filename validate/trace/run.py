"""One rank of a plan traced: a warm-up step that fills torch's caches, then a step that is counted."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor.parallel import loss_parallel

from planner.plan import Plan
from planner.work.kinds import HEAD
from planner.work.layers import rank_chunks
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.trace.figures import BACKWARD, RECEIVED, Traced
from validate.trace.model import Block, Chunk, FeedForward, whole_sequence
from validate.trace.pipeline import Pipeline
from validate.trace.rank import Rank
from validate.trace.split import recompute_layers, reduce_dtype, shard_parameters, tensor_parallel
from validate.trace.update import Bucket, local, make_optimizer
from validate.trace.world import pretended


def trace_rank(job: TrainingJob, plan: Plan, stack: SoftwareStack, stage: int) -> Traced:
    """Trace the first rank of pipeline stage `stage`."""
    with pretended(plan, stage * (plan.num_ranks // plan.pp)) as world:
        rank = Rank(job, plan, stack, world)
        with rank.storages.resizes(), _default_dtype(rank.stored):
            return _trace(rank, stage)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _trace(rank: Rank, stage: int) -> Traced:
    pieces = list(_pieces(rank, stage))
    with rank.fake, rank.storages:
        chunks = [_chunk(rank, piece, last) for piece, last in pieces]
    for chunk in chunks:
        _split(chunk, rank)
    with rank.fake, rank.storages:
        updates = _updates(rank, chunks)
        pipeline = Pipeline.of(rank, stage, chunks) if rank.plan.pp > 1 else None
        step = pipeline.step if pipeline else lambda: local_step(rank, chunks)
        with loss_parallel() if rank.plan.tp > 1 else contextlib.nullcontext():
            step()
            updates.step()
            rank.before, rank.waiting, rank.storages.peak_bytes = frozenset(rank.storages.live), (), 0.0
            with rank.tally:
                step()
                gradients, peak = updates.gradient_bytes(), rank.storages.peak_bytes
                updates.step()
    waiting = rank.origins()
    if pipeline:
        waiting[RECEIVED] = storage_bytes(pipeline.received())
    return Traced(
        stage=stage,
        counts=rank.tally.counts,
        parameters_bytes=storage_bytes(updates.parameters),
        gradients_bytes=gradients,
        optimizer_bytes=updates.state_bytes(),
        waiting=waiting,
        peak_bytes=peak,
    )


def _pieces(rank: Rank, stage: int) -> Iterator[tuple[dict[str, int], bool]]:
    """The layers of each chunk of a pipeline rank by kind, and whether it is the model's last."""
    plan = rank.plan
    held = rank_chunks(rank.model, plan.schedule, plan.pp, plan.vp, plan.layout)[stage]
    yield from ((counts, HEAD in counts) for counts in held)


def _chunk(rank: Rank, counts: Mapping[str, int], last: bool) -> Chunk:
    layers: list[nn.Module] = []
    for kind in itertools.chain.from_iterable([kind] * count for kind, count in counts.items()):
        if kind in ("embedding", "head"):
            continue
        layers.append(Block(rank.model, whole_sequence, FeedForward(rank.model, rank.model.ffn_size)))
        _placed(rank, layers[-1], kind)
    chunk = Chunk(rank.model, layers, first="embedding" in counts, last=last)
    for kind, module in (("embedding", chunk.embedding), ("head", chunk.head)):
        if module is not None:
            _placed(rank, module, kind)
    return chunk


def _placed(rank: Rank, module: nn.Module, kind: str) -> None:
    """Note that what a module makes in its forward pass belongs to a layer of `kind`."""
    module.register_forward_pre_hook(lambda *_: rank.place.append(kind))
    module.register_forward_hook(lambda *_: rank.place.pop() and None)


def _split(chunk: Chunk, rank: Rank) -> None:
    if rank.plan.tp > 1:
        tensor_parallel(chunk, rank.plan, rank.world.meshes["tp"])
    recompute_layers(chunk, rank.plan, rank.recompute)
    if rank.plan.zero_stage == 3:
        shard_parameters(chunk, rank.plan, rank.world, rank.stack, rank.job.precision)


@dataclass(slots=True)
class _Updates:
    """Everything that holds gradients and optimizer states."""

    parameters: list[nn.Parameter]
    buckets: list[Bucket]
    sharded: Any
    """FSDP's optimizer; None without."""

    def step(self) -> None:
        for bucket in self.buckets:
            bucket.step()
        if self.sharded is not None:
            self.sharded.step()
            self.sharded.zero_grad(set_to_none=True)

    def gradient_bytes(self) -> float:
        if self.sharded is None:
            return storage_bytes(bucket.gradients for bucket in self.buckets)
        return storage_bytes(parameter.grad for parameter in self.parameters if parameter.grad is not None)

    def state_bytes(self) -> float:
        optimizers = [bucket.optimizer for bucket in self.buckets] if self.sharded is None else [self.sharded]
        states = [
            value
            for optimizer in optimizers
            for state in optimizer.state.values()
            for name, value in state.items()
            if isinstance(value, Tensor) and name != "step"
        ]
        return storage_bytes([*states, *(master for bucket in self.buckets for master in bucket.masters)])


def _updates(rank: Rank, chunks: list[Chunk]) -> _Updates:
    parameters = list(dict.fromkeys(parameter for chunk in chunks for parameter in chunk.parameters()))
    if rank.plan.zero_stage == 3:
        return _Updates(parameters, [], make_optimizer(rank.job.optimizer, parameters))
    dtype = torch.float32 if rank.job.precision == "fp32" else reduce_dtype(rank.stack)
    return _Updates(parameters, [Bucket.of(parameters, "dp", rank.job, rank.plan, rank.world, dtype)], None)


def storage_bytes(tensors: Iterable[Any]) -> float:
    """Bytes of the storages behind tensors, each once."""
    storages = {
        storage._cdata: float(storage.nbytes()) for storage in (local(tensor).untyped_storage() for tensor in tensors)
    }
    return sum(storages.values())


def local_step(rank: Rank, chunks: list[Chunk]) -> None:
    """All layers on this rank, microbatch after microbatch."""
    (chunk,) = chunks
    for _ in range(rank.plan.num_microbatches(rank.job.global_batch)):
        with rank.forward():
            loss = rank.loss(chunk(rank.tokens()), rank.tokens())
        with rank.tally.during(BACKWARD):
            loss.backward()
        del loss
