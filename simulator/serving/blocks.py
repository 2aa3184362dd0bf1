"""Paged memory of keys and values: how many blocks are in use, exactly, without looking at each request every step.

Every running request stores one token an iteration and takes a new block when its last one is full. Which iterations
those are depends only on where it began, modulo the block: requests are counted by that remainder, and the blocks of
any number of iterations follow from the counts.
"""


class Blocks:
    """The blocks of one replica; `step` counts decoding iterations."""

    __slots__ = ("block_tokens", "growing", "num_blocks", "num_growing", "used")

    def __init__(self, num_tokens: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.num_blocks = num_tokens // block_tokens
        self.used = 0
        self.growing = [0] * block_tokens
        """By remainder r: requests that take a block in every iteration whose step is r modulo the block."""
        self.num_growing = 0

    @property
    def free(self) -> int:
        """Blocks that nobody uses."""
        return self.num_blocks - self.used

    def of(self, tokens: int) -> int:
        """Blocks that hold `tokens`."""
        return -(-tokens // self.block_tokens)

    def join(self, stored_tokens: int, step: int) -> None:
        """A request that stores `stored_tokens` takes part from the iteration `step` on."""
        self.growing[(step - stored_tokens) % self.block_tokens] += 1
        self.num_growing += 1

    def leave(self, stored_tokens: int, step: int) -> None:
        """It does so no longer; its blocks are given back apart."""
        self.growing[(step - stored_tokens) % self.block_tokens] -= 1
        self.num_growing -= 1

    def needed(self, step: int) -> int:
        """New blocks of the iteration `step`."""
        return self.growing[step % self.block_tokens]

    def grow(self, step: int, num_iterations: int) -> None:
        """Take the new blocks of `num_iterations` from `step` on."""
        cycles, rest = divmod(num_iterations, self.block_tokens)
        begin = step % self.block_tokens
        end = begin + rest
        used = cycles * self.num_growing + sum(self.growing[begin:end])
        if end > self.block_tokens:
            used += sum(self.growing[: end - self.block_tokens])
        self.used += used

    def iterations(self, step: int, at_most: int) -> int:
        """Iterations from `step` on, up to `at_most`, whose new blocks are free."""
        free = self.free
        if (at_most // self.block_tokens + 1) * self.num_growing <= free:
            return at_most
        cycles, left = divmod(free, self.num_growing)
        count = cycles * self.block_tokens
        while count < at_most and left >= (new := self.growing[(step + count) % self.block_tokens]):
            left -= new
            count += 1
        return min(count, at_most)
