"""The feed-forward part of a dense layer, and the projections it shares with experts."""

from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual
from planner.work.ops import Numbers
from profiles.model import TransformerShape


def ffn(model: TransformerShape, shard: Shard, ffn: Numbers, tokens: Numbers, batch: Numbers = 1.0) -> list[Step]:
    """Up (and gate) projection, activation, down projection over `batch` groups of `tokens`."""
    gates = 2.0 if model.gated_ffn else 1.0
    fused = shard.stack.fused_elementwise
    forward, backward = gates + 1.0, 2.0 * gates + 1.0
    elements = batch * tokens * ffn
    return [
        shard.linear(model.hidden_size, gates * ffn, tokens, batch),
        shard.traffic(elements, forward if fused else forward + 2.0, backward if fused else backward + 2.0,
                      1.0 if fused else 2.0),
        shard.linear(ffn, model.hidden_size, tokens, batch),
    ]  # fmt: skip


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
