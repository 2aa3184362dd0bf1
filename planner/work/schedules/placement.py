"""Where the chunks of a model lie: which pipeline rank holds which, and which microbatches pass through them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Numbers = Any
"""An int, or an integer array of one value a plan."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A way to lay chunks on pipeline ranks. Chunk c hands its output to chunk c + 1 of the same copy."""

    name: str
    rank_of: Callable[[int, int], int]
    """(chunk, num_stages) -> pipeline rank."""
    num_copies: int = 1
    """Copies of the model that one pipeline holds; each takes an equal share of the microbatches."""

    def num_pieces(self, num_stages: Numbers, vp: Numbers) -> Numbers:
        """Pieces that the model is cut into."""
        return num_stages * vp

    def num_chunks(self, num_stages: Numbers, vp: Numbers) -> Numbers:
        """Chunks on all ranks together: every piece once for each copy."""
        return self.num_copies * num_stages * vp

    def ranks(self, num_stages: int, vp: int) -> tuple[int, ...]:
        """The pipeline rank of every chunk."""
        return tuple(self.rank_of(chunk, num_stages) for chunk in range(self.num_chunks(num_stages, vp)))

    def pieces(self, num_stages: int, vp: int) -> tuple[int, ...]:
        """The piece of the model that every chunk is."""
        return tuple(range(self.num_pieces(num_stages, vp))) * self.num_copies

    def microbatches(self, chunk: int, num_stages: int, vp: int, num_microbatches: int) -> range:
        """The microbatches that pass through `chunk`: those of its copy."""
        copy, share = chunk // self.num_pieces(num_stages, vp), num_microbatches // self.num_copies
        return range(copy * share, (copy + 1) * share)


def _fold(chunk: int, num_stages: int) -> int:
    """Down the ranks and up again."""
    return chunk if chunk < num_stages else 2 * num_stages - 1 - chunk


LOOP = Placement("loop", lambda chunk, num_stages: chunk % num_stages)
"""Round the ranks once for each chunk of a rank [Narayanan 2021, arXiv:2104.04473, section 2.2.2]."""
FOLD = Placement("fold", _fold)
"""Two chunks a rank in the shape of a V: the first and the last lie on rank 0 [Qi 2024, arXiv:2405.15362]."""
MIRROR = Placement("mirror", _fold, num_copies=2)
"""A copy of the model down the ranks and a second one up them [DeepSeek-AI 2024, arXiv:2412.19437, section 3.2.1]."""
