"""A mixture of experts as operations: router, dispatch, grouped products, combine.

The ranks of a stage form two meshes: tp x cp x dp for attention and dense parts, etp x ep x edp for the experts
[Liu 2025, MoE parallel folding, arXiv:2504.14960]. Each rank dispatches the tokens it holds over ep; where etp
ranks share the width of an expert, the tokens of all of them meet at each [Megatron-Core token dispatchers].
"""

from planner.work.blocks.feed_forward import ffn
from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual
from planner.work.ops import Message, Numbers
from profiles.model import TransformerShape


def mixture_of_experts(model: TransformerShape, shard: Shard) -> list[Step]:
    """Router, dispatch, grouped expert products, combine; experts are spread over ep, their width over etp.

    Tokens are taken as balanced over experts [Fedus 2021, arXiv:2101.03961, section 2.2].
    """
    moe, hidden = model.moe, model.hidden_size
    assert moe is not None
    copies, sent = shard.expert_tokens * moe.top_k, shard.outside_tokens * moe.top_k
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
        *_gather(shard, copies * hidden),
        *ffn(model, shard, moe.expert_ffn_size / shard.etp, copies / experts, experts),
        *_scatter(shard, copies * hidden),
        move,
        shard.traffic(sent * hidden, 2.0, 3.0),
        *shared,
        residual(shard, hidden),
    ]


def _gather(shard: Shard, elements: Numbers) -> list[Step]:
    """Tokens of the etp ranks meet at the experts whose width they share; `elements` after they met."""
    gather = Message("etp", "all_gather", shard.width * elements)
    scatter = Message("etp", "reduce_scatter", shard.width * elements)
    return [Step(gather, (scatter,), 1.0 * (shard.expert_gathered > 1.0))]


def _scatter(shard: Shard, elements: Numbers) -> list[Step]:
    """Partial results of the etp ranks are summed: scattered to those the tokens came from, or kept by all."""
    gather = Message("etp", "all_gather", shard.width * elements)
    scatter = Message("etp", "reduce_scatter", shard.width * elements)
    reduce = Message("etp", "all_reduce", shard.width * elements)
    met = 1.0 * (shard.expert_gathered > 1.0)
    return [
        Step(scatter, (gather,), met),
        Step(reduce, (reduce,), (1.0 - met) * (shard.etp > 1.0)),
    ]
