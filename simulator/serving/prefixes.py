"""Prefix cache: blocks of prompts that stay in memory nobody needs, and are found again by their names."""

from collections import OrderedDict
from collections.abc import Sequence

from simulator.serving.blocks import Blocks


class PrefixCache:
    """Named blocks of one replica. Those in use are shared; the others wait, the least recently used going first.

    Waiting blocks lie in memory that `Blocks` counts as free, and give way when it is needed.
    """

    __slots__ = ("_blocks", "_in_use", "_waiting", "block_tokens", "num_blocks")

    def __init__(self, blocks: Blocks, block_tokens: int) -> None:
        self._blocks = blocks
        self._in_use: dict[int, int] = {}
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self.block_tokens = block_tokens
        self.num_blocks = blocks.of(block_tokens)
        """Blocks of memory that one named block takes."""

    def match(self, ids: Sequence[int]) -> tuple[int, int]:
        """Of the named blocks at the head of `ids`: how many are here, and how many of those are in use."""
        self.evict()
        found = in_use = 0
        for name in ids:
            if name in self._in_use:
                in_use += 1
            elif name not in self._waiting:
                break
            found += 1
        return found, in_use

    def take(self, ids: Sequence[int]) -> None:
        """Use `ids`, those that are not here yet from now on; blocks that become used are charged."""
        for name in ids:
            users = self._in_use.get(name, 0)
            if not users:
                self._waiting.pop(name, None)
                self._blocks.used += self.num_blocks
            self._in_use[name] = users + 1

    def give(self, ids: Sequence[int]) -> None:
        """Use them no longer; of blocks that nobody else uses the last of the prompt will go first."""
        for name in reversed(ids):
            users = self._in_use[name] - 1
            if users:
                self._in_use[name] = users
            else:
                del self._in_use[name]
                self._waiting[name] = None
                self._blocks.used -= self.num_blocks

    def evict(self) -> None:
        """Drop waiting blocks whose memory was taken."""
        room = max(self._blocks.free // self.num_blocks, 0)
        while len(self._waiting) > room:
            self._waiting.popitem(last=False)
