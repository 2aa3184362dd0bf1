"""The ends of a model: embedding, head with its loss, and both again to predict a further token."""

import numpy as np

from planner.work.blocks.shard import Shard, Step, enter, leave, norm
from planner.work.ops import Elementwise, Message, Numbers
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES


def embedding(model: TransformerShape, shard: Shard) -> list[Step]:
    """Look up the rows, sum over the vocabulary shards; backward adds rows into the weight gradient."""
    return [
        shard.traffic(shard.tokens * model.hidden_size, 2.0, 3.0),
        *leave(shard, model.hidden_size),
    ]


def padded_vocabulary(model: TransformerShape, tp: Numbers, stack: SoftwareStack) -> Numbers:
    """Vocabulary rows on one rank: padded so that every tp rank holds a multiple of the stack's own."""
    multiple = float(stack.vocabulary_multiple)
    return np.ceil(model.vocabulary_size / (multiple * tp)) * multiple


_LOSS_SUMS = 3.0
"""Of the loss over split logits: the largest logit, the sum of exponentials and the target's own, in fp32."""


def head(model: TransformerShape, shard: Shard, stack: SoftwareStack) -> list[Step]:
    """Final norm, logits over the padded vocabulary shard, cross-entropy in memory.

    Where the vocabulary is split, three sums of one value a token make the loss whole [Shoeybi 2019,
    arXiv:1909.08053, section 3; NVIDIA/Megatron-LM megatron/core/tensor_parallel/cross_entropy.py].
    """
    padded = padded_vocabulary(model, shard.tp, stack)
    logits = shard.tokens * padded
    loss = Elementwise(
        0.4 * stack.loss_traffic_bytes_per_logit * logits,
        0.6 * stack.loss_traffic_bytes_per_logit * logits,
        4.0,
        4.0,
    )
    return [
        norm(shard, model.hidden_size),
        *enter(shard, model.hidden_size),
        shard.linear(model.hidden_size, padded),
        Step.of(loss),
        Step(Message("tp", "all_reduce", DTYPE_BYTES["fp32"] * shard.tokens), count=_LOSS_SUMS),
    ]


def further_token(model: TransformerShape, shard: Shard, stack: SoftwareStack) -> list[Step]:
    """What an MTP module has beside its layer: the norms of its two inputs, the projection of both, and logits.

    The inputs are the output of the layer before and the embedding of the next token; embedding and head are shared
    [DeepSeek-AI 2024, arXiv:2412.19437, section 2.2, eq. 21 to 23].
    """
    hidden = model.hidden_size
    return [
        *embedding(model, shard),
        norm(shard, 2.0 * hidden),
        *enter(shard, 2.0 * hidden),
        shard.linear(2.0 * hidden, hidden / shard.tp),
        *leave(shard, hidden),
        *head(model, shard, stack),
    ]
