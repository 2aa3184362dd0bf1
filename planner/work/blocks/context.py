"""Context parallelism: how the keys and values of a sequence reach the queries of every rank.

A cp group has two levels. Inside it, `cp_a2a` ranks trade heads for tokens by all-to-all, so that each has fewer
heads of a longer piece [Jacobs 2023, DeepSpeed-Ulysses, arXiv:2309.14509, section 3.1]. Between them keys and
values go around a ring beside the attention of the step before [Liu 2023, ring attention, arXiv:2310.01889],
each rank holding an early and a late piece so that causal work is balanced [Brandon 2023, striped attention,
arXiv:2311.09431], or are gathered first [Llama team 2024, arXiv:2407.21783, section 3.3.2].
"""

from dataclasses import dataclass, replace

import numpy as np

from planner.work.blocks.shard import Shard, Step
from planner.work.ops import Attention, Elementwise, Kernel, Message, Numbers


@dataclass(frozen=True, slots=True)
class ContextShard:
    """What the attention core of one rank sees of a sequence, and the messages around it."""

    heads: Numbers
    kv_heads: Numbers
    query_length: Numbers
    ring_steps: Numbers
    """Kernels in which the ring's keys are met, one after the other; 1 where they are gathered first."""

    @classmethod
    def of(cls, shard: Shard, heads: Numbers, kv_heads: Numbers) -> "ContextShard":
        """The core's share of `heads` query heads and `kv_heads` key-value heads of the rank."""
        ring = shard.cp / shard.cp_a2a
        return cls(
            heads=heads / shard.cp_a2a,
            kv_heads=np.maximum(kv_heads / shard.cp_a2a, 1.0),
            query_length=shard.key_length / ring,
            ring_steps=np.where(shard.cp_gather > 0.0, 1.0, ring),
        )


def trade_heads(shard: Shard, features: Numbers) -> list[Step]:
    """All-to-all of `features` a token inside the cp_a2a ranks: into the core, and (another one) out of it."""
    trades, elements = 1.0 * (shard.cp_a2a > 1.0), shard.tokens * features
    message = Message("cp_a2a", "all_to_all", shard.width * elements)
    steps = [Step(message, (message,), trades, is_core=True)]
    if "trade" in shard.stack.composed:
        copies = shard.composed(elements, "trade")
        steps.append(Step(copies.op, copies.backward, trades, is_core=True))
    return steps


def pass_keys(shard: Shard, context: ContextShard, features: Numbers, kernel: Attention | None) -> list[Step]:
    """Keys and values of `features` a token reach the other ranks of the ring, beside or before the core `kernel`.

    A ring of n passes n - 1 pieces forward; backward, each piece travels with its gradient. One step's transfer
    has one n-th of the kernel beside it (none where the core is not one kernel, or the stack does not overlap them).
    """
    ring = shard.cp / shard.cp_a2a
    gathers = np.logical_and(shard.cp_gather > 0.0, ring > 1.0) * 1.0
    passes = np.where(shard.cp_gather > 0.0, 0.0, ring - 1.0)
    piece = shard.width * shard.sequences * context.query_length * features
    forth_beside, back_beside = _steps_of(kernel if shard.stack.cp_overlap else None, ring)
    forth = Message("cp_ring", "send_recv", piece, beside=forth_beside)
    back = Message("cp_ring", "send_recv", 2.0 * piece, beside=back_beside)
    gather = Message("cp_ring", "all_gather", ring * piece)
    scatter = Message("cp_ring", "reduce_scatter", ring * piece)
    return [Step(gather, (gather, scatter), gathers, is_core=True), Step(forth, (back,), passes, is_core=True)]


def merge_partial(shard: Shard, context: ContextShard, features: Numbers, *, causal: bool) -> Step:
    """Partial outputs of `features` a token are rescaled and added up, and so are the gradients of queries."""
    share = 0.5 if causal else 1.0
    elements = share * shard.sequences * context.query_length * features
    if "ring" in shard.stack.composed:
        merged = shard.composed(elements, "ring")
        return Step(merged.op, merged.backward, context.ring_steps - 1.0, is_core=True)
    kernel = Elementwise(3.0 * shard.width * elements, 3.0 * shard.width * elements)
    return Step(kernel, kernel.backward(), context.ring_steps - 1.0, is_core=True)


def _steps_of(kernel: Attention | None, ring: Numbers) -> tuple[Kernel | None, Kernel | None]:
    """One of the `ring` kernels in which an attention core runs, forward and backward."""
    if kernel is None:
        return None, None
    (backward,) = kernel.backward()
    return _share(kernel, ring), _share(backward, ring)


def _share(kernel: Attention, ring: Numbers) -> Attention:
    return replace(kernel, batch=kernel.batch / ring, num_launches=kernel.num_launches / ring)
