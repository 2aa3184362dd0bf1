"""Iteration prices as plain lines, for tests of everything that takes prices."""

from dataclasses import dataclass

from planner.serving import DecodeLine, IterationShape


@dataclass(frozen=True, slots=True)
class LinearPrices:
    """base + token * tokens + attention * contexts; beyond `bend_tokens` of context, attention costs twice."""

    base_seconds: float = 0.005
    seconds_per_prefill_token: float = 2e-5
    seconds_per_decode: float = 1e-4
    seconds_per_context_token: float = 1e-7
    bend_tokens: float = float("inf")

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Prompt tokens, and the decode line."""
        prompts = self.seconds_per_prefill_token * sum(shape.prefill_tokens)
        past = self.seconds_per_context_token * sum(shape.prefill_past_tokens)
        line = self.decode_line(shape.num_decodes, shape.decode_context_tokens)
        return prompts + past + line.seconds(shape.decode_context_tokens)

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """One line below the bend and a steeper one above it."""
        base = self.base_seconds + self.seconds_per_decode * num_decodes
        slope = self.seconds_per_context_token
        if context_tokens <= self.bend_tokens:
            return DecodeLine(base, slope, self.bend_tokens)
        return DecodeLine(base - slope * self.bend_tokens, 2.0 * slope, float("inf"))
