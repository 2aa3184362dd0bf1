"""What users saw: times of every request as arrays, and the figures that are made of them."""

from dataclasses import dataclass

import numpy as np

from simulator.serving.requests import Floats, Ints, Requests


@dataclass(frozen=True, slots=True)
class Played:
    """Columns of shape (n,); a request that no replica can hold has no times (NaN)."""

    requests: Requests
    arrival_seconds: Floats
    first_token_seconds: Floats
    last_token_seconds: Floats
    cached_tokens: Ints
    """Of its prompt, when it was last admitted."""
    num_preemptions: Ints
    replica: Ints
    """That made its last token; -1: none."""
    first_counted: int = 0
    """Requests before this one were warm-up."""
    lives_seconds: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Of every pool: from when until when each of its replicas was there, asked for or starting included."""

    @property
    def counted(self) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Those that were answered and are no warm-up."""
        counted = np.isfinite(self.last_token_seconds)
        counted[: self.first_counted] = False
        return counted

    @property
    def num_refused(self) -> int:
        """Requests that were never answered: no replica can hold them."""
        return int(np.count_nonzero(~np.isfinite(self.last_token_seconds)))

    @property
    def ttft_seconds(self) -> Floats:
        """Arrival to first token."""
        return self.first_token_seconds - self.arrival_seconds

    @property
    def e2e_seconds(self) -> Floats:
        """Arrival to last token."""
        return self.last_token_seconds - self.arrival_seconds

    @property
    def tpot_seconds(self) -> Floats:
        """Mean time between the tokens of a request; NaN where there is one token."""
        gaps = self.requests.output_tokens - 1
        with np.errstate(invalid="ignore"):
            return np.where(
                gaps > 0, (self.last_token_seconds - self.first_token_seconds) / np.maximum(gaps, 1), np.nan
            )

    @property
    def replica_seconds(self) -> tuple[float, ...]:
        """Time of all replicas of each pool together, which is what they cost."""
        return tuple(sum(end - begin for begin, end in lives) for lives in self.lives_seconds)

    @property
    def duration_seconds(self) -> float:
        """From the first arrival that counts to the last token."""
        counted = self.counted
        if not counted.any():
            return 0.0
        return float(np.max(self.last_token_seconds[counted]) - np.min(self.arrival_seconds[counted]))
