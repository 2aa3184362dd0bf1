"""The feed-forward part of a dense layer, and the projections it shares with experts."""

from planner.recompute import Module
from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual, within
from planner.work.ops import Numbers
from profiles.model import TransformerShape


def ffn(model: TransformerShape, shard: Shard, width: Numbers, tokens: Numbers) -> list[Step]:
    """Up (and gate) projection, activation, down projection.

    Of gate, up and down, recomputation by operators runs the second again.
    """
    gates = 2.0 if model.gated_ffn else 1.0
    return [
        shard.linear(model.hidden_size, gates * width, tokens, again_fraction=1.0 - 1.0 / gates),
        activation(model, shard, tokens * width),
        shard.linear(width, model.hidden_size, tokens, again_fraction=0.0),
    ]


def activation(model: TransformerShape, shard: Shard, elements: Numbers) -> Step:
    """The activation of `elements` outputs, with its gate."""
    gates = 2.0 if model.gated_ffn else 1.0
    if model.gated_ffn and "gate" in shard.stack.composed:
        return shard.composed(elements, "gate")
    forward, backward = gates + 1.0, 2.0 * gates + 1.0
    if shard.stack.fused_elementwise:
        return shard.traffic(elements, forward, backward)
    return shard.traffic(elements, forward + 2.0, backward + 2.0, 2.0)


def feed_forward(model: TransformerShape, shard: Shard) -> list[Step]:
    """Norm, feed-forward part, residual; the width is split over tp."""
    hidden = model.hidden_size
    inner = [
        *enter(shard, hidden),
        *ffn(model, shard, model.ffn_size / shard.tp, shard.tokens),
        *leave(shard, hidden),
    ]
    return [
        *within(Module.LAYERNORM | Module.MLP, [norm(shard, hidden)]),
        *within(Module.MLP, inner),
        residual(shard, hidden),
    ]
