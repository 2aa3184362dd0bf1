"""A measured message, from whatever log it was read."""

from dataclasses import dataclass, field

from profiles.calibration import CollectiveOp


@dataclass(frozen=True, slots=True)
class MeasuredMessage:
    """One collective over a group of ranks; sizes as in nccl-tests (the whole message of a rank)."""

    op: CollectiveOp
    num_ranks: int
    num_hosts: int
    """Hosts that the group spans, with equally many ranks on each."""
    num_bytes: float
    seconds: float


@dataclass(slots=True)
class Skipped:
    """What a log holds that could not be used, counted by reason."""

    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, count: int = 1) -> None:
        """Count `count` more of `reason`."""
        self.reasons[reason] = self.reasons.get(reason, 0) + count
