"""The transformer that is traced: torch modules whose matrices are separate, so that torch's own styles can split them.

Shapes: B sequences, T tokens on this rank, H hidden, N heads, G key-value heads, D head size, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from profiles.model import TransformerShape


def norm(shape: TransformerShape, size: int) -> nn.Module:
    """One fused kernel. RMS norms are traced as layer norms without bias, since torch takes them apart on CPUs."""
    return nn.LayerNorm(size, bias=shape.norm == "layer_norm")


class Attention(nn.Module):
    """Grouped-query self-attention; (B, T, H) -> (B, T, H)."""

    def __init__(self, shape: TransformerShape, core: nn.Module) -> None:
        super().__init__()
        self.head_dim, self.core = shape.head_dim, core
        query, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        bias = shape.qkv_bias or shape.linear_bias
        self.query = nn.Linear(shape.hidden_size, query, bias=bias)
        self.key = nn.Linear(shape.hidden_size, keys, bias=bias)
        self.value = nn.Linear(shape.hidden_size, keys, bias=bias)
        self.out = nn.Linear(query, shape.hidden_size, bias=shape.linear_bias)
        self.query_norm = norm(shape, shape.head_dim) if shape.qk_norm else nn.Identity()
        self.key_norm = norm(shape, shape.head_dim) if shape.qk_norm else nn.Identity()
        self.rotary = shape.num_learned_positions == 0

    def forward(self, hidden: Tensor) -> Tensor:
        """Attend with the heads this rank holds."""
        query, key, value = (
            part(hidden).unflatten(-1, (-1, self.head_dim)) for part in (self.query, self.key, self.value)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if self.rotary:
            query, key = _turned(query), _turned(key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed: Tensor = self.out(self.core(query, key, value).transpose(1, 2).flatten(2))
        return mixed


def _turned(heads: Tensor) -> Tensor:
    """Rotary positions on (B, T, N, D) [Su 2021, arXiv:2104.09864, eq. 34]; what the table holds does not matter."""
    table = heads.new_empty(heads.shape[1], 1, heads.shape[-1] // 2)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * table - second * table, first * table + second * table), dim=-1)


class FeedForward(nn.Module):
    """GELU between two matrices, or SiLU-gated with three; (B, T, H) -> (B, T, H)."""

    def __init__(self, shape: TransformerShape, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.hidden_size, width, bias=shape.linear_bias) if shape.gated_ffn else None
        self.up = nn.Linear(shape.hidden_size, width, bias=shape.linear_bias)
        self.down = nn.Linear(width, shape.hidden_size, bias=shape.linear_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Up, activation, down."""
        up = self.up(hidden)
        active = F.gelu(up) if self.gate is None else F.silu(self.gate(hidden)) * up
        down: Tensor = self.down(active)
        return down


class Block(nn.Module):
    """One pre-norm layer, dense or a mixture of experts; (B, T, H) -> (B, T, H)."""

    def __init__(self, shape: TransformerShape, core: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.attention_norm = norm(shape, shape.hidden_size)
        self.attention = Attention(shape, core)
        self.ffn_norm = norm(shape, shape.hidden_size)
        self.ffn = ffn

    def forward(self, hidden: Tensor) -> Tensor:
        """Attention and feed-forward part, each added to what came in."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        after: Tensor = hidden + self.ffn(self.ffn_norm(hidden))
        return after


class Embedding(nn.Module):
    """Token rows and, where the model has them, learned positions; (B, T) -> (B, T, H)."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary_size, shape.hidden_size)
        count = shape.num_learned_positions
        self.positions = nn.Parameter(torch.empty(count, shape.hidden_size)) if count else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up and add; under sequence parallelism a rank has some of the tokens' rows."""
        hidden: Tensor = self.tokens(tokens)
        return hidden if self.positions is None else hidden + self.positions[: hidden.shape[1]]


class Head(nn.Module):
    """Final norm and logits; (B, T, H) -> (B, T, V)."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.norm = norm(shape, shape.hidden_size)
        self.logits = nn.Linear(shape.hidden_size, shape.vocabulary_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Norm, then the product with the vocabulary."""
        logits: Tensor = self.logits(self.norm(hidden))
        return logits


class Chunk(nn.Module):
    """Consecutive layers, with the embedding in front or the head behind where the chunk holds them."""

    def __init__(self, shape: TransformerShape, layers: list[nn.Module], *, first: bool, last: bool) -> None:
        super().__init__()
        self.embedding = Embedding(shape) if first else None
        self.layers = nn.ModuleList(layers)
        self.head = Head(shape) if last else None
        self.is_tied = shape.tied_embeddings and first and last
        self.tie()

    def tie(self) -> None:
        """Share the token rows with the logits where the model does (again after a split replaced them)."""
        if self.is_tied:
            assert self.embedding is not None
            assert self.head is not None
            self.head.logits.weight = self.embedding.tokens.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens or (B, T, H) to (B, T, H) or logits."""
        if self.embedding is not None:
            hidden = self.embedding(hidden)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden if self.head is None else self.head(hidden)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(0, 1))
