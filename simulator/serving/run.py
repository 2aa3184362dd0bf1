"""A run of iterations in flight, each longer than the one before by the same amount."""

import math


class Run:
    """Iteration j of `num_iterations` takes first_seconds + j * longer_seconds."""

    __slots__ = ("begin_seconds", "first_seconds", "longer_seconds", "num_iterations")

    def __init__(
        self, begin_seconds: float, first_seconds: float, longer_seconds: float = 0.0, num_iterations: int = 1
    ) -> None:
        self.begin_seconds = begin_seconds
        self.first_seconds = first_seconds
        self.longer_seconds = longer_seconds
        self.num_iterations = num_iterations

    def end_seconds(self, num_iterations: int) -> float:
        """When that many of them are over."""
        pairs = 0.5 * num_iterations * (num_iterations - 1)
        return self.begin_seconds + (num_iterations * self.first_seconds + pairs * self.longer_seconds)

    def iterations_until(self, seconds: float) -> int:
        """The fewest iterations that end at `seconds` or later: the root of a quadratic, put right by comparison."""
        left = seconds - self.begin_seconds
        half = 0.5 * self.longer_seconds
        slope = self.first_seconds - half
        root = 2.0 * left / (slope + math.sqrt(slope * slope + 4.0 * half * left)) if left > 0.0 else 0.0
        count = math.ceil(root)
        while count > 0 and self.end_seconds(count - 1) >= seconds:
            count -= 1
        while self.end_seconds(count) < seconds:
            count += 1
        return count
