"""A mixture of experts as operations: router, dispatch, grouped products, combine."""

from planner.work.blocks.feed_forward import ffn
from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual
from planner.work.ops import Message
from profiles.model import TransformerShape


def mixture_of_experts(model: TransformerShape, shard: Shard) -> list[Step]:
    """Router, dispatch, grouped expert products, combine; experts are spread over ep, their width over tp.

    Under sequence parallelism each tp rank dispatches its own slice of the tokens, and the slices meet again
    inside the tp group at the experts. Tokens are taken as balanced over experts
    [Fedus 2021, arXiv:2101.03961, section 2.2].
    """
    moe, hidden = model.moe, model.hidden_size
    assert moe is not None
    copies, sent = shard.tokens * moe.top_k, shard.outside_tokens * moe.top_k
    experts = moe.num_experts / shard.ep
    exchange = Message("ep", "all_to_all", shard.width * sent * hidden)
    move = Step(exchange, (exchange,), 1.0 * (shard.ep > 1))
    shared = []
    if moe.shared_width:
        shared = [
            *enter(shard, hidden),
            *ffn(model, shard, moe.shared_width / shard.tp, shard.tokens),
            *leave(shard, hidden),
        ]
    return [
        norm(shard, hidden),
        shard.linear(hidden, float(moe.num_experts), shard.outside_tokens),
        shard.traffic(sent * hidden, 2.0, 2.0),
        move,
        *enter(shard, hidden * moe.top_k),
        *ffn(model, shard, moe.expert_ffn_size / shard.tp, copies / experts, experts),
        *leave(shard, hidden * moe.top_k),
        move,
        shard.traffic(sent * hidden, 2.0, 3.0),
        *shared,
        residual(shard, hidden),
    ]
