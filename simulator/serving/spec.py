"""What the simulator plays: replicas with prices and memory, pools of them, and how one deployment is made of pools."""

from dataclasses import dataclass

from planner.serving import IterationPrices
from profiles.engine import EngineRecord
from simulator.serving.scaling import Autoscaling, Failure


@dataclass(frozen=True, slots=True)
class Speculation:
    """Tokens guessed ahead and checked in one iteration; prices are those of iterations that check them."""

    draft_tokens: int
    acceptance_fraction: float
    """Chance that a guess is right, given that those before it are [Leviathan 2023, arXiv:2211.17192, section 2.1]."""


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One replica: its prices, its memory, its engine."""

    stages: tuple[IterationPrices, ...]
    """Prices of its pipeline stages in order; one where it has no pipeline."""
    kv_tokens: int
    """Tokens whose keys and values it can hold."""
    engine: EngineRecord
    """How it forms batches. Host times are not added here: they are part of the prices."""
    token_budget: int = 8192
    max_sequences: int = 256
    swap_seconds_per_token: float = 0.0
    """Copying keys and values of a preempted request to the host, or back; 0: they are computed again instead."""
    speculation: Speculation | None = None
    groups: int = 1
    """Of attention data parallelism, each with requests of its own."""

    def __post_init__(self) -> None:
        """Raises ValueError for a replica that could never take a request."""
        if not self.stages:
            raise ValueError("stages: a replica needs the prices of at least one")
        for name in ("token_budget", "max_sequences", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is too few; at least 1 is needed")
        for name in ("balance_wait_iterations", "batch_wait_iterations"):
            if getattr(self.engine, name) and not self.engine.mixes_prefill:
                raise ValueError(f"{name}: {getattr(self.engine, name)} is for engines that mix prompts with decoding")
        if self.kv_tokens < self.engine.block_tokens:
            raise ValueError(f"kv_tokens: {self.kv_tokens} is less than one block of {self.engine.block_tokens}")


@dataclass(frozen=True, slots=True)
class Transfer:
    """Keys and values on their way from the replica that ran a prompt to the one that goes on with it."""

    bytes_per_token: float
    """Of all layers, over all ranks."""
    bytes_per_second: float
    """Of one replica's links together; its transfers queue for them."""
    latency_seconds: float = 0.0

    def seconds(self, num_tokens: float) -> float:
        """Of so many tokens, where the links are free."""
        return self.bytes_per_token * num_tokens / self.bytes_per_second + self.latency_seconds


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Replicas of one kind behind a router."""

    replica: ReplicaSpec
    num_replicas: int = 1
    """At the start."""
    router: str = "round-robin"
    scaling: Autoscaling | None = None
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for an empty pool."""
        if self.num_replicas < 1:
            raise ValueError(f"num_replicas: {self.num_replicas} is too few; at least 1 is needed")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model as it is served: a pool, or one for prompts and one for what follows."""

    decode: PoolSpec
    """Runs prompts too unless `prefill` does."""
    prefill: PoolSpec | None = None
    transfer: Transfer | None = None
    """Between the pools; None: takes no time."""

    @property
    def pools(self) -> tuple[PoolSpec, ...]:
        """In the order a request passes through them."""
        return (self.prefill, self.decode) if self.prefill else (self.decode,)
