"""A traced rank: what it is made of, and what is noted while it runs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.plan import Plan
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.trace.figures import FORWARD, LOSS, RECOMPUTE
from validate.trace.model import token_loss
from validate.trace.split import accumulated_bytes
from validate.trace.storage import Held, Storages
from validate.trace.tally import Tally
from validate.trace.world import World

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions that can be traced."""


@dataclass(slots=True)
class Rank:
    """What a traced rank is made of, and what is noted while it runs."""

    job: TrainingJob
    plan: Plan
    stack: SoftwareStack
    world: World
    tally: Tally = field(init=False)
    storages: Storages = field(init=False)
    fake: FakeTensorMode = field(default_factory=FakeTensorMode)
    place: list[str] = field(default_factory=list)
    """Kinds of the layers that run, innermost last."""
    before: frozenset[int] = frozenset()
    """Storages that lived when the step began."""
    waiting: tuple[tuple[Held, float], ...] = ()

    sharded: list[nn.Module] = field(default_factory=list)
    """What FSDP wraps."""
    accumulated_bytes: float = 0.0
    """Most gradients that waited, whole, to be reduced and sharded."""

    def __post_init__(self) -> None:
        self.tally = Tally(self.world.axis_of, self.where)
        self.storages = Storages(lambda: (self.where(), self.tally.phase))

    @property
    def model(self) -> TransformerShape:
        """The shape that is traced."""
        assert isinstance(self.job.model, TransformerShape)
        return self.job.model

    @property
    def stored(self) -> torch.dtype:
        """Format in which parameters are stored."""
        return torch.float32 if self.plan.zero_stage == 3 else self.computed

    @property
    def computed(self) -> torch.dtype:
        """Format in which layers compute."""
        return DTYPES[self.job.precision]

    def where(self) -> str:
        """The layer that runs now, "" outside of forward passes of layers."""
        return self.place[-1] if self.place else ""

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Note that what is made now belongs to `place`."""
        self.place.append(place)
        try:
            yield
        finally:
            self.place.pop()

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """A forward pass; what waits for its backward pass afterwards is looked at."""
        with self.tally.during(FORWARD):
            yield
            self.look()

    @contextlib.contextmanager
    def recompute(self) -> Iterator[None]:
        """A forward pass that is run again, which ends by an exception as soon as everything needed is back."""
        depth = len(self.place)
        with self.tally.during(RECOMPUTE):
            try:
                yield
            finally:
                del self.place[depth:]

    def look(self) -> None:
        """Keep what forward passes have left, if it is the most so far, and what waits to be reduced."""
        waiting = sum(map(accumulated_bytes, self.sharded))
        self.accumulated_bytes = max(self.accumulated_bytes, waiting)
        now = tuple(
            (held, held.num_bytes)
            for key, held in self.storages.live.items()
            if key not in self.before and held.phase == FORWARD and not held.is_resized
        )
        if sum(size for _, size in now) > sum(size for _, size in self.waiting):
            self.waiting = now

    def origins(self) -> dict[tuple[str, str], float]:
        """Bytes that waited when most did, by (layer, operation that made them)."""
        found: dict[tuple[str, str], float] = {}
        for held, size in self.waiting:
            key = (held.made_in, held.made_by)
            found[key] = found.get(key, 0.0) + size
        return found

    @property
    def outside_tokens(self) -> int:
        """Tokens of a sequence between tensor-parallel parts."""
        inside = self.job.sequence_length // self.plan.cp
        return inside // self.plan.tp if self.plan.sequence_parallel else inside

    def tokens(self, num_microbatches: int = 1) -> Tensor:
        """Tokens of microbatches on this rank."""
        sequences = num_microbatches * self.plan.micro_batch
        return torch.zeros(sequences, self.job.sequence_length // self.plan.cp, dtype=torch.int64)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, its tensors noted as its own."""
        with self.tally.during(FORWARD), self.at(LOSS):
            loss = token_loss(logits, targets)
            if self.plan.pp > 1:
                self.look()
            return loss
