"""Seconds of an iteration of a serving engine: kernels and messages of one rank, tabulated once, then looked up.

Linear layers depend on the tokens of an iteration, the head on the requests that get a token, attention on each
context. Each is priced on a grid by `planner.cost.kernels` and `planner.cost.collectives`; between its knots a table
is linear, so that a run of decode iterations sums exactly.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from math import ceil
from typing import Any

import numpy as np

from planner.cost.collectives import message_seconds
from planner.cost.kernels import kernel_seconds
from planner.cost.knots import Knots, Sheet, geometric
from planner.cost.libraries import mixed_attention_factor
from planner.serving import DecodeLine, IterationShape, Pool, ServingPlan
from planner.work.forms import form_of
from planner.work.iteration import (
    LINEAR_ATTENTION_PIECE,
    Repeated,
    ServedShard,
    decode_ops,
    head_ops,
    linear_ops,
    num_messages,
    num_prompt_launches,
    prefill_ops,
    routed_ops,
    served_heads,
)
from planner.work.ops import (
    Attention,
    DecodeAttention,
    Elementwise,
    ExpertLayer,
    Gemm,
    GroupedGemm,
    Kernel,
    Listed,
    Message,
)
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.cluster import Cluster
from profiles.engine import EngineRecord, KernelKind
from profiles.libraries import LibraryCurves
from profiles.model import TransformerShape

MAX_TOKENS, MAX_SEQUENCES, MAX_CONTEXT = 128_000.0, 8_000.0, 1_050_000.0
"""Ends of the tables; beyond them the last slope goes on."""
NCCL = ""


def rank_seconds(ops: Iterable[Repeated], shard: ServedShard, cluster: Cluster) -> Any:
    """Seconds of kernels and messages of one rank, one after the other in one stream [Shoeybi 2019, arXiv:1909.08053,
    section 3: two all-reduces a layer wait for what they sum]; fields broadcast."""
    total: Any = 0.0
    for op, times in ops:
        seconds = _message_seconds(op, shard, cluster) if isinstance(op, Message) else _priced(op, cluster)
        total = total + times * shard.time_factors.get(_KINDS[type(op)], 1.0) * seconds
    return total


_KINDS: Mapping[type, KernelKind] = {
    Gemm: "gemm", Listed: "gemm", ExpertLayer: "experts", Elementwise: "elementwise", Attention: "prefill",
    DecodeAttention: "decode", Message: "message",
}  # fmt: skip


def _message_seconds(message: Message, shard: ServedShard, cluster: Cluster) -> Any:
    """The faster of NCCL and the engine's own kernel, which engines choose by size and only between ranks that see each
    other's memory [NVIDIA/TensorRT-LLM, tensorrt_llm/_torch/distributed/ops.py: others go by NCCL]."""
    size = shard.ranks if message.axis == "ep" else shard.tp
    if size <= 1.0:
        return 0.0
    libraries = (NCCL, shard.library) if size <= cluster.tiers[0].num_devices else (NCCL,)
    priced = (
        message_seconds(message.collective, message.num_bytes, size, 1.0, cluster, library) for library in libraries
    )
    return np.where(np.greater(message.num_bytes, 0.0), reduce(np.minimum, priced), 0.0)


def _priced(op: Kernel, cluster: Cluster) -> Any:
    if not has_library(cluster):
        return kernel_seconds(_without_library(op, cluster.accelerator), cluster)
    seconds = kernel_seconds(op, cluster)
    if isinstance(op, Gemm) and op.form == "nvfp4":
        # measured with a pass that quantises, which engines fuse into what comes before: no longer than in 16 bits
        seconds = np.minimum(seconds, kernel_seconds(replace(op, form="bf16", dtype="bf16"), cluster))
    return seconds


def has_library(cluster: Cluster) -> bool:
    """Whether kernels of serving libraries were measured on a relative of the accelerator."""
    curves = _curves(cluster)
    return curves is not None and bool(curves.decode)


def _curves(cluster: Cluster) -> LibraryCurves | None:
    try:
        return catalog.library_curves(cluster.accelerator.name)
    except ValueError:
        return None


def _family(cluster: Cluster) -> str:
    curves = _curves(cluster)
    return curves.name if curves else ""


def _without_library(op: Kernel, accelerator: Accelerator) -> Kernel:
    """The same work for the accelerator's own curves, which know plain products and streams."""
    match op:
        case Gemm():
            return Gemm(op.m, op.n, op.k, op.batch, _dtype(op.form, accelerator), form=op.form)
        case Attention():
            return Attention(op.batch, op.heads, op.kv_heads, op.query_length, op.key_length, op.head_dim,
                             op.value_dim, dtype=_dtype("", accelerator), past_length=op.past_length,
                             window_length=op.window_length)  # fmt: skip
        case DecodeAttention():
            return Elementwise(op.num_bytes)
        case ExpertLayer():
            return GroupedGemm(op.rows, op.num_matrices * op.width, op.hidden, op.experts,
                               _dtype(op.form, accelerator))  # fmt: skip
    return op


def _dtype(form: str, accelerator: Accelerator) -> str:
    """What multiplies a form; where a device has no 16-bit units (FPGAs, old CPUs), those of 32 bits do."""
    name, peaks = form_of(form or "bf16").dtype, accelerator.peak_flops_per_second
    if name in ("bf16", "fp16") and not {"bf16", "fp16"} & set(peaks) and "fp32" in peaks:
        return "fp32"
    return name


@dataclass(frozen=True, slots=True)
class EnginePrices:
    """Prices of one replica, as `planner.serving.IterationPrices`; made by `engine_prices`."""

    attention_dp: float
    linear: Knots
    """Of tokens of the attention group that has most: every layer but attention and what is routed."""
    routed: Knots
    """Of tokens of an attention group on average: experts, and the exchange around them."""
    decode_routed: Knots
    """The same in iterations that only decode."""
    head: Knots
    """Of requests of one attention group that get a token."""
    prefill: Sheet
    """Of new tokens of a prompt, and of those before them."""
    decode: Sheet
    """Of requests of one attention group, and of their mean context."""
    num_doublings: float
    """Messages of an iteration, times log2 of the ranks of each."""
    num_launches: float
    """Kernels and messages of an iteration with prompts."""
    is_sparse: bool
    """Whether any layer has experts."""
    is_latent: bool
    """Whether attention is latent (MLA)."""
    form: str
    """Of the experts, or of the products where there are none, and the family of the device, as "fp8_block hopper"."""
    num_layers: float
    """Of a stage; a head that guesses tokens is one more."""
    num_linear_layers: float
    """Of those, with linear attention."""
    mixed_attention_factor: float = 1.0
    """Of attention of running requests beside prompts."""
    draft_tokens: int = 0
    guesses_itself: bool = True
    """Heads of its own make the guesses."""
    host_seconds: float = 0.0
    host_seconds_per_sequence: float = 0.0
    prompt_time_factor: float = 1.0
    prompt_floor_seconds: float = 0.0
    guess_floor_seconds: float = 0.0
    """What each token guessed ahead adds to it."""
    scan_seconds: float = 0.0
    """Of each piece of the longest prompt: linear attention takes them one after another."""
    lines: dict[tuple[int, int], DecodeLine] = field(default_factory=dict)

    def under(self, engine: EngineRecord) -> "EnginePrices":
        """The same kernels with the constants of `engine`."""
        excess = self.num_doublings * engine.all_reduce_excess_seconds
        factor = engine.sparse_prompt_time_factor if self.is_sparse else engine.prompt_time_factor
        factor *= engine.prompt_time_factors.get(self.form, 1.0)
        launches = engine.host_seconds_per_prompt_launch * self.num_launches
        latent = engine.host_seconds_per_latent_layer * self.num_layers if self.is_latent else 0.0
        captured = engine.captured_launch_fraction if engine.captures_prompts else 1.0
        return replace(
            self, host_seconds=engine.host_seconds_per_iteration + excess,
            host_seconds_per_sequence=engine.host_seconds_per_sequence, prompt_time_factor=factor,
            prompt_floor_seconds=captured * (launches + latent),
            guess_floor_seconds=captured * engine.host_seconds_per_guess,
            scan_seconds=self.num_linear_layers * engine.linear_attention_piece_seconds, lines={},
        )  # fmt: skip

    def of_prompts_alone(self, engine: EngineRecord) -> "EnginePrices":
        """The same in a pool that only runs prompts, kernel by kernel: no less than its launches, and without what
        batches that mix them with running requests cost beyond their kernels."""
        floor = engine.host_seconds_per_launch * self.num_launches
        return replace(self, prompt_time_factor=1.0, prompt_floor_seconds=floor, lines={})

    def guessing(self, draft_tokens: int) -> "EnginePrices":
        """The same with so many tokens guessed ahead for each running request.

        An iteration checks them in one row each beside the request's own, with one pass over its keys and values; each
        guess is a layer and a head before [DeepSeek-V3 2024, arXiv:2412.19437, section 2.2].
        """
        return replace(self, draft_tokens=draft_tokens, lines={})

    def checking(self, draft_tokens: int) -> "EnginePrices":
        """The same, checking so many tokens that something else has guessed."""
        return replace(self, draft_tokens=draft_tokens, guesses_itself=False, lines={})

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Any iteration, from its launch until its tokens are known, through one stage."""
        if not shape.prefill_tokens:
            return self.decode_line(shape.num_decodes, shape.decode_context_tokens).seconds(shape.decode_context_tokens)
        new, past = shape.prefill_tokens, shape.prefill_past_tokens
        prompts = sum(self.prefill(float(q), float(p)) for q, p in zip(new, past, strict=True))
        decodes = shape.num_decodes
        attention = 0.0
        if decodes:
            alone = self.decode(decodes / self.attention_dp, shape.decode_context_tokens / decodes)
            attention = self.mixed_attention_factor * alone
        checked = decodes * (1.0 + self.draft_tokens)
        groups = min(self.attention_dp, len(new))
        most = max(sum(new) / groups, float(max(new))) + checked / self.attention_dp
        rows = self.linear(most) + self.routed((sum(new) + checked) / self.attention_dp)
        scanned = self.scan_seconds * ceil(max(new) / LINEAR_ATTENTION_PIECE)
        kernels = rows + prompts / groups + attention + scanned
        floor = self.prompt_floor_seconds + self.draft_tokens * self.guess_floor_seconds
        slowed = max(self.prompt_time_factor * kernels, floor)
        return self._with_host(slowed + self._guesses(decodes), len(new) + checked)

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """The line of iterations of `num_decodes` requests alone that holds at `context_tokens`."""
        knots = self.decode.second
        piece = min(max(bisect_right(knots, context_tokens / num_decodes) - 1, 0), len(knots) - 2)
        key = (num_decodes, piece)
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = self._line(num_decodes, piece)
        return line

    def _line(self, num_decodes: int, piece: int) -> DecodeLine:
        local = num_decodes / self.attention_dp
        knots = self.decode.second
        left, right = knots[piece], knots[piece + 1]
        first, last = self.decode(local, left), self.decode(local, right)
        slope = (last - first) / (right - left)
        checked = 1.0 + self.draft_tokens
        rows = self.linear(checked * local) + self.decode_routed(checked * local)
        kernels = rows + first - slope * left + self._guesses(num_decodes)
        base = self._with_host(kernels, checked * num_decodes)
        end = right * num_decodes if piece < len(knots) - 2 else np.inf
        return DecodeLine(base, slope / num_decodes, end)

    def _guesses(self, num_decodes: int) -> float:
        """Seconds of the heads that guess, one after the other."""
        if not (self.draft_tokens and self.guesses_itself and num_decodes):
            return 0.0
        local = num_decodes / self.attention_dp
        layer = (self.linear(local) + self.decode_routed(local)) / self.num_layers
        return self.draft_tokens * (layer + self.head(local))

    def _with_host(self, kernel_seconds: float, num_sequences: float) -> float:
        """Kernels of the layers, then the head of all rows that get a token, and the host's part."""
        local = num_sequences / self.attention_dp
        return kernel_seconds + self.head(local) + self.host_seconds + self.host_seconds_per_sequence * local


class PriceBook:
    """Prices that were asked for before, by what they depend on: models and clusters by their names."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], EnginePrices] = {}

    def prices(
        self, model: TransformerShape, shard: ServedShard, cluster: Cluster, engine: EngineRecord
    ) -> EnginePrices:
        """As `engine_prices`, the kernels of which are priced once."""
        key = (model.name, cluster.name, cluster.num_devices, shard.key)
        if key not in self._known:
            self._known[key] = engine_prices(model, shard, cluster, engine)
        return self._known[key].under(engine)


def served_shard(plan: ServingPlan, pool: Pool, engine: EngineRecord) -> ServedShard:
    """How one replica of `pool` shares the model under `plan`, with the kernels of `engine`."""
    return ServedShard(
        tp=float(pool.tp), attention_dp=float(pool.attention_dp), ep=float(pool.ep), pp=float(pool.pp),
        library=engine.library, weights=plan.weights, expert_weights=plan.expert_weights, kv_dtype=plan.kv_dtype,
        borrowed=engine.borrowed_kernels, time_factors=engine.time_factors, ignores_windows=engine.ignores_windows,
        routing_skew=engine.routing_skew,
        decode_kernels=engine.decode_kernels, latent_as_cached=engine.latent_as_cached,
    )  # fmt: skip


def engine_prices(model: TransformerShape, shard: ServedShard, cluster: Cluster, engine: EngineRecord) -> EnginePrices:
    """Prices of a replica of `model` on devices of `cluster`, whose ranks lie next to each other.

    Raises ValueError when a form has no kernels on the accelerator.
    """
    tokens = geometric(1.0, MAX_TOKENS, 4, exact_until=32)
    sequences = geometric(1.0, MAX_SEQUENCES, 2, exact_until=8)
    contexts = geometric(16.0, MAX_CONTEXT, 2)
    past = np.concatenate([[0.0], geometric(256.0, MAX_CONTEXT, 2)])
    chunks = geometric(1.0, MAX_TOKENS, 2)
    prefill = rank_seconds(prefill_ops(model, shard, chunks[:, None], past), shard, cluster)
    decode = rank_seconds(decode_ops(model, shard, sequences[:, None], contexts), shard, cluster)
    routed = rank_seconds(routed_ops(model, shard, tokens), shard, cluster)
    other = replace(shard, borrowed={**shard.borrowed, **shard.decode_kernels})
    decode_routed = np.minimum(routed, rank_seconds(routed_ops(model, other, tokens), other, cluster))
    kernels = EnginePrices(
        shard.attention_dp,
        Knots.of(tokens, rank_seconds(linear_ops(model, shard, tokens), shard, cluster)),
        Knots.of(tokens, routed),
        Knots.of(tokens, decode_routed),
        Knots.of(sequences, rank_seconds(head_ops(model, shard, sequences), shard, cluster)),
        Sheet(chunks.tolist(), past.tolist(), prefill.tolist()),
        Sheet(sequences.tolist(), contexts.tolist(), decode.tolist()),
        num_messages(model, shard) * float(np.log2(max(shard.ranks, 1.0))),
        num_prompt_launches(model, shard),
        model.moe is not None,
        model.mla is not None,
        f"{shard.expert_form if model.moe else shard.weights} {_family(cluster)}",
        model.num_layers / shard.pp,
        (model.num_layers - model.num_full_attention_layers if model.linear_attention else 0) / shard.pp,
        _mixed_attention_factor(model, shard, cluster),
    )  # fmt: skip
    return kernels.under(engine)


def _mixed_attention_factor(model: TransformerShape, shard: ServedShard, cluster: Cluster) -> float:
    """1 for latents, which have kernels of their own, and where no library was measured on a relative."""
    if model.mla or not has_library(cluster):
        return 1.0
    heads, kv_heads = served_heads(model, shard)
    return mixed_attention_factor(shard.library, heads / kv_heads, cluster.accelerator)
