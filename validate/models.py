"""The transformer that is really run: a pipeline stage of a `TransformerShape`, or all of it as one stage.

Weights are drawn parameter by parameter from a seed and the parameter's name, so that any rank builds exactly
its share of the same model. Shapes: B sequences, T tokens, H hidden, N heads, G key-value groups, D head size.
"""

import math
import zlib
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from planner.work.layers import EMBEDDING, HEAD, MOE, sequence
from profiles.model import TransformerShape

_INIT_STD = 0.02
"""Standard deviation of initial weights (GPT-2, Radford 2019)."""
_ROTARY_BASE = 10000.0
"""Base of the rotary frequencies (Su 2021, arXiv:2104.09864, section 3.2.2)."""


class Core(nn.Module):
    """Fused attention of (B, N, T, D) queries over (B, G, T, D) keys and values."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The context of every query, (B, N, T, D)."""
        grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, is_causal=self.causal, enable_gqa=grouped)


class Attention(nn.Module):
    """Causal or full self-attention with grouped keys and values; takes and returns (B, T, H).

    `qkv` holds one block of rows per key-value group: its query heads, then its key, then its value. A split of
    the rows over tp therefore hands each rank whole groups.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.heads_per_group = shape.num_heads // shape.num_kv_heads
        self.rotary = shape.num_learned_positions == 0
        rows = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        self.qkv = nn.Linear(shape.hidden_size, rows, bias=shape.qkv_bias)
        self.out = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=shape.linear_bias)
        self.core: nn.Module = Core(shape.causal)
        self.positions: Tensor | None = None
        """Places in the sequence of the T tokens, where they are not the first T."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Attend over the whole sequence; a tensor-parallel rank sees its own groups only."""
        packed = self.qkv(hidden)
        batch, length = packed.shape[:2]
        groups = packed.view(batch, length, -1, self.heads_per_group + 2, self.head_dim)
        query, key, value = groups.split([self.heads_per_group, 1, 1], dim=3)
        query, key, value = (part.flatten(2, 3).transpose(1, 2) for part in (query, key, value))
        if self.rotary:
            query, key = rotate(query, key, self.positions)
        context = self.core(query, key, value)
        mixed: Tensor = self.out(context.transpose(1, 2).reshape(batch, length, -1))
        return mixed


def rotate(query: Tensor, key: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotary positions (by default 0 to T - 1) on (B, N, T, D) tensors, halves as pairs.

    [Su 2021, arXiv:2104.09864, eq. 34]
    """
    length, dim = query.shape[-2:]
    exponents = torch.arange(0, dim, 2, device=query.device, dtype=torch.float32) / dim
    places = torch.arange(length, device=query.device) if positions is None else positions
    angles = torch.outer(places.float(), _ROTARY_BASE**-exponents)
    cos, sin = angles.cos().to(query.dtype), angles.sin().to(query.dtype)

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)

    return turn(query), turn(key)


class FeedForward(nn.Module):
    """GELU between two matrices, or SiLU-gated with three; takes and returns (B, T, H)."""

    def __init__(self, shape: TransformerShape, width: int) -> None:
        super().__init__()
        hidden, bias = shape.hidden_size, shape.linear_bias
        self.gate = nn.Linear(hidden, width, bias=bias) if shape.gated_ffn else None
        self.up = nn.Linear(hidden, width, bias=bias)
        self.down = nn.Linear(width, hidden, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Up, activation, down."""
        up = self.up(hidden)
        active = F.gelu(up) if self.gate is None else F.silu(self.gate(hidden)) * up
        down: Tensor = self.down(active)
        return down


class Experts(nn.Module):
    """The feed-forward parts of several experts, their matrices stacked; each runs the rows that chose it."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        moe, hidden = shape.moe, shape.hidden_size
        assert moe is not None
        self.is_gated = shape.gated_ffn
        width, num_experts = moe.expert_ffn_size, moe.num_experts
        self.up = nn.Parameter(torch.empty(num_experts, (2 if self.is_gated else 1) * width, hidden))
        self.down = nn.Parameter(torch.empty(num_experts, hidden, width))

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        """(rows, H) sorted by expert, `counts` of them for each -> (rows, H)."""
        outputs = []
        for expert, mine in enumerate(rows.split(counts)):
            inner = F.linear(mine, self.up[expert])
            if self.is_gated:
                gate, up = inner.chunk(2, dim=-1)
                inner = F.silu(gate) * up
            else:
                inner = F.gelu(inner)
            outputs.append(F.linear(inner, self.down[expert]))
        return torch.cat(outputs)


class MixtureOfExperts(nn.Module):
    """A router sends each token to its best experts and adds what they return; none are dropped.

    [Fedus 2021, arXiv:2101.03961, section 2.1; weights of the chosen experts sum to 1 as in Mixtral,
    arXiv:2401.04088, section 2.1]
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        moe = shape.moe
        assert moe is not None
        self.top_k, self.num_experts = moe.top_k, moe.num_experts
        self.router = nn.Linear(shape.hidden_size, moe.num_experts, bias=False)
        self.experts: nn.Module = Experts(shape)
        self.shared = FeedForward(shape, moe.shared_width) if moe.shared_width else None

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        tokens = hidden.flatten(0, -2)
        weights, chosen = self.router(tokens).float().softmax(-1).topk(self.top_k)
        weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=self.num_experts)
        rows = self.experts(tokens[order // self.top_k], counts.tolist())
        weighted = rows * weights.flatten()[order].unsqueeze(-1).to(rows.dtype)
        mixed = torch.zeros_like(tokens).index_add(0, order // self.top_k, weighted).view_as(hidden)
        return mixed if self.shared is None else mixed + self.shared(hidden)


class Block(nn.Module):
    """One pre-norm transformer layer, with experts where `is_sparse`."""

    def __init__(self, shape: TransformerShape, *, is_sparse: bool) -> None:
        super().__init__()
        self.attention_norm = _norm(shape)
        self.attention = Attention(shape)
        self.ffn_norm = _norm(shape)
        self.ffn: nn.Module = MixtureOfExperts(shape) if is_sparse else FeedForward(shape, shape.ffn_size)
        self.recomputes_ffn = False
        """Whether the feed-forward part, with its norm, keeps its input alone and runs again for the backward pass."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        part = checkpoint(self._fed, hidden, use_reentrant=False) if self.recomputes_ffn else self._fed(hidden)
        after: Tensor = hidden + part
        return after

    def _fed(self, hidden: Tensor) -> Tensor:
        fed: Tensor = self.ffn(self.ffn_norm(hidden))
        return fed


class Embedding(nn.Module):
    """Token rows, plus learned positions where the model has them; (B, T) -> (B, T, H)."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary_size, shape.hidden_size)
        self.learned = (
            nn.Embedding(shape.num_learned_positions, shape.hidden_size) if shape.num_learned_positions else None
        )
        self.positions: Tensor | None = None
        """Places in the sequence of the T tokens, where they are not the first T."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up and add."""
        hidden: Tensor = self.tokens(tokens)
        if self.learned is None:
            return hidden
        places = slice(tokens.shape[1]) if self.positions is None else self.positions
        return hidden + self.learned.weight[places]


class Head(nn.Module):
    """Final norm and logits; (B, T, H) -> (B, T, vocabulary)."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.norm = _norm(shape)
        self.logits = nn.Linear(shape.hidden_size, shape.vocabulary_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Norm, then the product with the vocabulary."""
        logits: Tensor = self.logits(self.norm(hidden))
        return logits


class Stage(nn.Module):
    """Consecutive layers of the model, with the embedding in front or the head behind where it holds them."""

    def __init__(self, shape: TransformerShape, layers: Iterable[int], *, first: bool, last: bool) -> None:
        super().__init__()
        self.embedding = Embedding(shape) if first else None
        kinds = [kind for kind in sequence(shape) if kind not in (EMBEDDING, HEAD)]
        self.layers = nn.ModuleDict({str(index): Block(shape, is_sparse=kinds[index] == MOE) for index in layers})
        self.head = Head(shape) if last else None
        self.tie(shape)

    def tie(self, shape: TransformerShape) -> None:
        """Share the token rows with the logits where the model ties them (again after sharding replaced them)."""
        if shape.tied_embeddings and self.embedding is not None and self.head is not None:
            self.head.logits.weight = self.embedding.tokens.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens (B, T) on the first stage, else (B, T, H), to (B, T, H), or to logits on the last stage."""
        if self.embedding is not None:
            hidden = self.embedding(hidden)
        for layer in self.layers.values():
            hidden = layer(hidden)
        return hidden if self.head is None else self.head(hidden)


def build_stage(shape: TransformerShape, layers: Iterable[int], *, first: bool, last: bool, seed: int) -> Stage:
    """The stage that holds `layers` (indices in the whole model), initialised on the CPU in fp32."""
    stage = Stage(shape, layers, first=first, last=last)
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
            closing = ("out.weight", "down.weight", "experts.down")
            depth = math.sqrt(2.0 * shape.num_layers) if name.endswith(closing) else 1.0
            parameter.normal_(0.0, _INIT_STD / depth, generator=generator)
    return stage


def is_expert(name: str) -> bool:
    """Whether a parameter of that name is one of an expert, which ep spreads over ranks."""
    return "experts" in name.split(".")


def _norm(shape: TransformerShape) -> nn.Module:
    return (nn.LayerNorm if shape.norm == "layer_norm" else nn.RMSNorm)(shape.hidden_size, eps=1e-5)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of (B, T, vocabulary) logits against (B, T) tokens."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def token_batch(shape: TransformerShape, num_sequences: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random inputs and next-token targets, each (num_sequences, length), the same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(shape.vocabulary_size, (num_sequences, length + 1), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
