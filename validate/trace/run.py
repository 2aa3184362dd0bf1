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
from planner.work.kinds import EMBEDDING, HEAD, MOE
from planner.work.layers import rank_chunks
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.models import Core
from validate.parallel.context import SpreadKeys, TradeHeads
from validate.trace.experts import MixtureOfExperts, is_expert
from validate.trace.figures import BACKWARD, RECEIVED, Sizes, Traced
from validate.trace.model import Block, Chunk, FeedForward
from validate.trace.pipeline import Pipeline
from validate.trace.rank import Rank
from validate.trace.split import recompute_layers, reduce_dtype, shard_parameters, tensor_parallel
from validate.trace.update import Bucket, local, make_optimizer
from validate.trace.world import pretended


def trace_rank(job: TrainingJob, plan: Plan, stack: SoftwareStack, stage: int) -> Traced:
    """Trace the first rank of pipeline stage `stage`."""
    assert isinstance(job.model, TransformerShape)
    first = stage * (plan.num_ranks // plan.pp)
    with pretended(plan, first, has_experts=job.model.moe is not None) as world:
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
    sizes = Sizes({part: mesh.size() for part in ("dp", "edp") if (mesh := rank.world.meshes.get(f"{part}_shard"))})
    for chunk, (counts, _) in zip(chunks, pieces, strict=True):
        _split(chunk, counts, rank, sizes)
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
    for bucket in updates.buckets:
        sizes.padding["", bucket.part] = float(bucket.num_padding)
    waiting = rank.origins()
    if pipeline:
        waiting[RECEIVED] = storage_bytes(pipeline.received())
    return Traced(
        stage=stage,
        counts=rank.tally.counts,
        parameters_bytes=storage_bytes(updates.parameters),
        gradients_bytes=max(gradients, rank.accumulated_bytes),
        optimizer_bytes=updates.state_bytes(),
        waiting=waiting,
        sizes=sizes,
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
        if kind in (EMBEDDING, HEAD):
            continue
        layers.append(Block(rank.model, _core(rank), _inner(rank, kind)))
        _placed(rank, layers[-1], kind)
    chunk = Chunk(rank.model, layers, first=EMBEDDING in counts, last=last)
    for kind, module in ((EMBEDDING, chunk.embedding), (HEAD, chunk.head)):
        if module is not None:
            _placed(rank, module, kind)
    return chunk


def _inner(rank: Rank, kind: str) -> nn.Module:
    """The feed-forward part of a layer of `kind`."""
    if kind == MOE:
        return MixtureOfExperts(rank.model, rank.world.axis("ep"))
    return FeedForward(rank.model, rank.model.ffn_size)


def _core(rank: Rank) -> nn.Module:
    """Attention over the tokens of all cp ranks, by the operators that real runs take too."""
    ring, trade = rank.world.axis("cp_ring"), rank.world.axis("cp_a2a")
    core: nn.Module = Core(rank.model.causal)
    if ring.size > 1:
        core = SpreadKeys(ring, causal=rank.model.causal, gathers=rank.plan.cp_gather)
    return TradeHeads(trade, core) if trade.size > 1 else core


def _placed(rank: Rank, module: nn.Module, kind: str) -> None:
    """Note that what a module makes in its forward pass belongs to a layer of `kind`."""
    module.register_forward_pre_hook(lambda *_: rank.place.append(kind))
    module.register_forward_hook(lambda *_: rank.place.pop() and None)


def _split(chunk: Chunk, counts: Mapping[str, int], rank: Rank, sizes: Sizes) -> None:
    if rank.plan.tp > 1:
        tensor_parallel(chunk, rank.plan, rank.world.meshes["tp"])
    _add_sizes(sizes, chunk, counts, pads=rank.plan.zero_stage == 3)
    recompute_layers(chunk, rank.plan, rank.recompute)
    if rank.plan.zero_stage == 3:
        shard_parameters(chunk, rank.plan, rank.world, rank.stack, rank.job.precision)
        rank.sharded.append(chunk)


def _add_sizes(sizes: Sizes, chunk: Chunk, counts: Mapping[str, int], pads: bool) -> None:
    """Count the layers of a chunk, and what FSDP adds to the first dimension of each parameter if it `pads`."""
    inner = [kind for kind, count in counts.items() for _ in range(count) if kind not in (EMBEDDING, HEAD)]
    modules = [(EMBEDDING, chunk.embedding), *zip(inner, chunk.layers, strict=True), (HEAD, chunk.head)]
    seen: set[int] = set()
    for kind, module in ((kind, module) for kind, module in modules if module is not None):
        own = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen |= {id(parameter) for parameter in own}
        for part, shards in sizes.num_shards.items():
            shapes = [local(each).shape for each in own if is_expert(each) == (part == "edp")]
            elements = float(sum(shape.numel() for shape in shapes))
            padding = float(sum(-shape[0] % shards * shape[1:].numel() for shape in shapes)) * pads
            sizes.elements[kind, part], sizes.padding[kind, part] = elements, padding
            sizes.elements["", part] = sizes.elements.get(("", part), 0.0) + elements
            sizes.padding["", part] = sizes.padding.get(("", part), 0.0) + padding


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
    parts = {
        "dp": [parameter for parameter in parameters if not is_expert(parameter)],
        "edp": [parameter for parameter in parameters if is_expert(parameter)],
    }
    buckets = [Bucket.of(own, part, rank.job, rank.plan, rank.world, dtype) for part, own in parts.items() if own]
    return _Updates(parameters, buckets, None)


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
