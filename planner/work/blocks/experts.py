"""A mixture of experts as operations: router, dispatch, grouped products, combine.

The ranks of a stage form two meshes: tp x cp x dp for attention and dense parts, etp x ep x edp for the experts
[Liu 2025, MoE parallel folding, arXiv:2504.14960]. Each rank dispatches the tokens it holds over ep; where etp
ranks share the width of an expert, the tokens of all of them meet at each [Megatron-Core token dispatchers].
"""

from dataclasses import replace

import numpy as np

from planner.recompute import Module
from planner.work.blocks.feed_forward import activation, ffn
from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual, within
from planner.work.ops import Message, Numbers
from planner.work.routing import Routing
from profiles.model import MixtureOfExperts, TransformerShape


def mixture_of_experts(model: TransformerShape, shard: Shard) -> list[Step]:
    """Router, dispatch, grouped expert products, combine; experts are spread over ep, their width over etp.

    The ranks of an exchange wait for the busiest: `TrainingJob.expert_load_factor` times the mean, of which what
    exceeds the capacity of an expert is dropped [Fedus 2021, arXiv:2101.03961, section 2.2].
    """
    moe, hidden = model.moe, model.hidden_size
    assert moe is not None
    copies, sent = shard.expert_tokens * moe.top_k, shard.outside_tokens * moe.top_k
    shared = []
    if moe.shared_width:
        shared = [
            *enter(shard, hidden),
            *ffn(model, shard, moe.shared_width / shard.tp, shard.tokens),
            *leave(shard, hidden),
        ]
    exchange = _exchange(moe, shard, sent * hidden * shard.load_factor)
    inner = [
        *_route(moe, shard, hidden),
        *exchange,
        *_gather(shard, copies * hidden),
        *_expert_ffn(model, moe, shard, copies),
        *_scatter(shard, copies * hidden),
        *reversed([_turned(step) for step in exchange]),
        *within(Module.SHARED_EXPERTS, shared),
    ]
    return [
        *within(Module.LAYERNORM, [norm(shard, hidden)]),
        *within(Module.MOE, inner),
        residual(shard, hidden),
    ]


def _route(moe: MixtureOfExperts, shard: Shard, hidden: Numbers) -> list[Step]:
    """Scores of every expert in fp32, the best of them, and the maps that say which row goes where."""
    scores = shard.outside_tokens * moe.num_experts
    return [
        shard.linear(hidden, float(moe.num_experts), shard.outside_tokens),
        shard.traffic(scores, _ROUTER_PASSES, _ROUTER_PASSES, _ROUTER_LAUNCHES),
    ]


_ROUTER_PASSES, _ROUTER_LAUNCHES = 12.0, 8.0
"""Scores, probabilities and masks are read and written as fp32, in one kernel each (Megatron-Core's router: cast,
score function, top-k, mask, counts, two sorts of the map, auxiliary loss)."""


def _exchange(moe: MixtureOfExperts, shard: Shard, elements: Numbers) -> list[Step]:
    """Copies of tokens on their way to the experts; the way back is the same in reverse (`_turned`).

    `elements` of all copies a rank sends. By plain all-to-all they are laid out by destination, sent, and laid out
    by expert; a fused dispatch sends each token once to each node and rank that needs it, and lays copies out once
    [Zhao 2025, DeepEP, github.com/deepseek-ai/DeepEP].
    """
    spread, stack = 1.0 * (shard.ep > 1.0), shard.stack
    back = Message("ep", "all_to_all", shard.width * elements)
    if stack.expert_dispatch == "all_to_all":
        before = [shard.move_rows(elements, 1.0 + 1.0 / moe.top_k)]
        sort = shard.move_rows(elements, 2.0)
        moves = [Step(sort.op, sort.backward, spread * np.greater(moe.num_experts, shard.ep))]
    else:
        routing = Routing(moe.top_k, moe.num_groups, moe.num_chosen_groups)
        back = replace(back, routing=routing, library=stack.expert_dispatch.removeprefix("fused"))
        before, moves = [], [shard.move_rows(elements, 2.0)]
    width = FP8_ROW_BYTES if stack.expert_dispatch_precision == "fp8" else shard.width
    forth = replace(back, num_bytes=width * elements)
    return [*before, Step(forth, (back,), spread), *moves]


def _turned(step: Step) -> Step:
    """The way back from the experts: what went forward goes backward, and the other way round."""
    if not isinstance(step.op, Message):
        return step
    (back,) = step.backward
    return replace(step, op=back, backward=(step.op,))


FP8_ROW_BYTES = 1.0 + 4.0 / 128.0
"""Per element of a row in FP8 with an fp32 scale for every 128."""


def _expert_ffn(model: TransformerShape, moe: MixtureOfExperts, shard: Shard, rows: Numbers) -> list[Step]:
    """Up (and gate) projection, activation, down projection of the rank's experts, each one grouped product."""
    gates = 2.0 if model.gated_ffn else 1.0
    width, experts = moe.expert_ffn_size / shard.etp, moe.num_experts / shard.ep
    return [
        *shard.grouped_linear(model.hidden_size, gates * width, rows, experts),
        *within(Module.MOE_ACT, [activation(model, shard, rows * width)]),
        *shard.grouped_linear(width, model.hidden_size, rows, experts),
        *([shard.traffic(rows * model.hidden_size, *_BIAS_PASSES)] if model.linear_bias else []),
    ]


_BIAS_PASSES = (12.0, 16.0, 5.0)
"""Reads and writes (as bf16) forward and backward, and kernels, of adding each expert's output bias times the weight
of the row in fp32: product, sum, concatenation and cast; backward also two reductions (Megatron-Core,
TEGroupedMLP._apply_bias)."""


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
