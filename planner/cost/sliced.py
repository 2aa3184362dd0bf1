"""Iterations of a replica that has a share of its devices' time, as slices or partitions give it."""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.serving import DecodeLine, IterationPrices, IterationShape


@dataclass(frozen=True, slots=True)
class SlicedPrices:
    """Prices of whole devices, stretched, as `planner.serving.IterationPrices`.

    t / share: what the others of a device do not use goes unused, so that no one's times depend on them, as of
    partitions (MIG) and fixed time slices [NVIDIA, Multi-Instance GPU User Guide]. Sharing by need is faster.
    """

    whole: IterationPrices
    share_fraction: float

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Any iteration."""
        return self.whole.iteration_seconds(shape) / self.share_fraction

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """The line of whole devices, steeper."""
        line = self.whole.decode_line(num_decodes, context_tokens)
        share = self.share_fraction
        return DecodeLine(line.base_seconds / share, line.seconds_per_token / share, line.last_tokens)


def sliced(prices: IterationPrices, share_fraction: float) -> IterationPrices:
    """`prices` of that share of the devices; those of all of it are as they were."""
    return SlicedPrices(prices, share_fraction) if share_fraction < 1.0 else prices


def num_bins(held_fraction: Sequence[float]) -> int:
    """Groups of devices that hold so many shares: each goes where the least is left that holds it, large ones first."""
    left: list[float] = []
    for share in sorted(held_fraction, reverse=True):
        fits = [number for number, room in enumerate(left) if room >= share - 1e-9]
        if fits:
            left[min(fits, key=left.__getitem__)] -= share
        else:
            left.append(1.0 - share)
    return len(left)
