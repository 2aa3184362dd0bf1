"""A small model that guesses for a large one: what its passes cost, and the memory that it takes [Leviathan 2023,
arXiv:2211.17192, section 2]."""

from dataclasses import dataclass, replace

from planner.cost.kv import ServingMemory, serving_memory
from planner.cost.serving import EnginePrices, PriceBook, served_shard
from planner.serving import DecodeLine, IterationPrices, IterationShape, Pool, ServingPlan
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.model import TransformerShape


@dataclass(frozen=True, slots=True)
class DraftedPrices:
    """Prices of a model whose running requests are guessed ahead by another, as `planner.serving.IterationPrices`.

    An iteration is `draft_tokens` passes of the small model over all running requests, one after the other, and then
    one of the large model, which checks them; prompts go through both.
    """

    checking: EnginePrices
    draft: IterationPrices
    draft_tokens: int

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Any iteration."""
        seconds, context = self.checking.iteration_seconds(shape), shape.decode_context_tokens
        if shape.prefill_tokens:
            seconds += self.draft.iteration_seconds(IterationShape(shape.prefill_tokens, shape.prefill_past_tokens))
        if shape.num_decodes:
            seconds += self.draft_tokens * self.draft.decode_line(shape.num_decodes, context).seconds(context)
        return seconds

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """The sum of the lines of all passes."""
        large = self.checking.decode_line(num_decodes, context_tokens)
        small = self.draft.decode_line(num_decodes, context_tokens)
        return DecodeLine(
            large.base_seconds + self.draft_tokens * small.base_seconds,
            large.seconds_per_token + self.draft_tokens * small.seconds_per_token,
            min(large.last_tokens, small.last_tokens),
        )


def drafted(
    prices: EnginePrices, draft: TransformerShape, plan: ServingPlan, pool: Pool, cluster: Cluster,
    engine: EngineRecord, book: PriceBook,
) -> DraftedPrices:  # fmt: skip
    """`prices` (of the large model) with the guesses of `draft`, which is split and kept as the large one is.

    The host schedules once an iteration, whatever it runs. Raises ValueError as prices do.
    """
    quiet = engine.model_copy(update={"host_seconds_per_iteration": 0.0, "host_seconds_per_sequence": 0.0})
    small = book.prices(draft, served_shard(plan, pool, engine), cluster, quiet)
    return DraftedPrices(prices.checking(plan.draft_tokens), small, plan.draft_tokens)


def beside_draft(
    memory: ServingMemory, draft: TransformerShape, plan: ServingPlan, pool: Pool, memory_bytes: float,
    engine: EngineRecord,
) -> ServingMemory:  # fmt: skip
    """`memory` of the large model where weights, keys and values of `draft` lie beside its own."""
    own = serving_memory(draft, served_shard(plan, pool, engine), memory_bytes, engine)
    left = max(memory.kv_bytes - own.weight_bytes, 0.0)
    per_token = memory.kv_bytes_per_token + own.kv_bytes_per_token
    return replace(
        memory, weight_bytes=memory.weight_bytes + own.weight_bytes, kv_bytes=left, kv_bytes_per_token=per_token,
        num_kv_tokens=pool.attention_dp * left / per_token,
    )  # fmt: skip


def check_draft(draft: TransformerShape, model: TransformerShape, tp: int) -> None:
    """Raise ValueError for a draft model of another vocabulary, or one that tp does not divide."""
    if draft.vocabulary_size != model.vocabulary_size:
        raise ValueError(
            f"draft_model: {draft.name} knows {draft.vocabulary_size:,} tokens and {model.name} "
            f"{model.vocabulary_size:,}; name one of the same family"
        )
    if draft.num_heads % tp:
        raise ValueError(f"draft_model: tp {tp} does not divide the {draft.num_heads} heads of {draft.name}")
