"""The feed-forward part of a dense layer, and the projections it shares with experts."""

from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual
from planner.work.ops import Numbers
from profiles.model import TransformerShape


def ffn(model: TransformerShape, shard: Shard, width: Numbers, tokens: Numbers) -> list[Step]:
    """Up (and gate) projection, activation, down projection."""
    gates = 2.0 if model.gated_ffn else 1.0
    return [
        shard.linear(model.hidden_size, gates * width, tokens),
        activation(model, shard, tokens * width),
        shard.linear(width, model.hidden_size, tokens),
    ]


def activation(model: TransformerShape, shard: Shard, elements: Numbers) -> Step:
    """The activation of `elements` outputs, with its gate."""
    gates = 2.0 if model.gated_ffn else 1.0
    forward, backward = gates + 1.0, 2.0 * gates + 1.0
    if shard.stack.fused_elementwise:
        return shard.traffic(elements, forward, backward)
    return shard.traffic(elements, forward + 2.0, backward + 2.0, 2.0)


def feed_forward(model: TransformerShape, shard: Shard) -> list[Step]:
    """Norm, feed-forward part, residual; the width is split over tp."""
    hidden = model.hidden_size
    return [
        norm(shard, hidden),
        *enter(shard, hidden),
        *ffn(model, shard, model.ffn_size / shard.tp, shard.tokens),
        *leave(shard, hidden),
        residual(shard, hidden),
    ]
