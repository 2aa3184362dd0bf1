"""A decoder that serves: one rank's share of its weights, and the keys and values of every request it runs.

Shapes: R rows (tokens of an iteration, of all its requests), H hidden, N heads, G key-value heads, D head size. Norms
are RMS norms and positions rotary, whatever the model's own; biases are left out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from profiles.model import TransformerShape
from validate.models import rotate

_INIT_STD = 0.02


class Piece(NamedTuple):
    """Tokens of one request in an iteration: a chunk of its prompt, or the token it made last."""

    slot: int
    """Where its keys and values are kept."""
    past: int
    """Tokens that are there already."""
    new: int
    is_prompt: bool


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of a layer on one tensor-parallel rank."""

    query_key_value: Tensor
    out: Tensor
    up: Tensor
    """Gate and up matrix below one another where the feed-forward part is gated."""
    down: Tensor


class ServedModel:
    """Weights are drawn whole from a seed and cut to this rank, so that any tp and pp make the same tokens.

    Rank r is number r % tp of stage r // tp. One batch is in flight at a time: stages work one after the other.
    """

    def __init__(
        self, shape: TransformerShape, num_slots: int, max_tokens: int, rank: int = 0, tp: int = 1, pp: int = 1
    ) -> None:
        self.shape, self.tp, self.pp = shape, tp, pp
        self.rank, self.stage = rank, rank // tp
        groups = [dist.new_group(range(first, first + tp)) for first in range(0, tp * pp, tp)] if pp > 1 else [None]
        self.group = groups[self.stage if pp > 1 else 0]
        """Of the ranks of this stage; None: all there are."""
        self.heads, self.groups = shape.num_heads // tp, shape.num_kv_heads // tp
        draw = torch.Generator().manual_seed(0)
        hidden, dim, width = shape.hidden_size, shape.head_dim, shape.ffn_size

        def weight(rows: int, columns: int, parts: int = 1, cut: int = 0) -> Tensor:
            """`parts` blocks of rows, cut over tp by rows (0) or columns (1)."""
            blocks = torch.randn(parts, rows, columns, generator=draw) * _INIT_STD
            return blocks.chunk(tp, dim=1 + cut)[rank % tp].flatten(0, 1).contiguous()

        self.layers = []
        ends = [shape.num_layers * stage // pp for stage in (self.stage, self.stage + 1)]
        for number in range(shape.num_layers):
            query, keys_values = weight(shape.num_heads * dim, hidden), weight(shape.num_kv_heads * dim, hidden, 2)
            layer = _Layer(
                torch.cat((query, keys_values)),
                weight(hidden, shape.num_heads * dim, cut=1),
                weight(width, hidden, 2 if shape.gated_ffn else 1),
                weight(hidden, width, cut=1),
            )
            if ends[0] <= number < ends[1]:
                self.layers.append(layer)
        self.embedding = torch.randn(shape.vocabulary_size, hidden, generator=draw) * _INIT_STD
        self.kept = torch.zeros(len(self.layers), 2, num_slots, self.groups, max_tokens, dim)
        """Keys and values by layer and slot."""
        self.latest = torch.zeros(num_slots, dtype=torch.int64)
        """The token each slot made last."""

    def prompt(self, slot: int, begin: int, end: int) -> Tensor:
        """Tokens `begin` to `end` of the prompt in `slot`: any will do, and every rank makes the same."""
        return (torch.arange(begin, end) * 31 + slot * 17 + 7) % self.shape.vocabulary_size

    @torch.no_grad()
    def iterate(self, pieces: list[Piece]) -> None:
        """Run one iteration; afterwards `latest` has the next token of every piece."""
        tokens = torch.cat([
            self.prompt(piece.slot, piece.past, piece.past + piece.new) if piece.is_prompt
            else self.latest[piece.slot : piece.slot + 1]
            for piece in pieces
        ])  # fmt: skip
        places = torch.cat([torch.arange(piece.past, piece.past + piece.new) for piece in pieces])
        hidden = self.embedding[tokens] if self.stage == 0 else self._received(len(tokens))
        for number, layer in enumerate(self.layers):
            hidden = hidden + self._summed(self._attend(_norm(hidden), layer, self.kept[number], pieces, places))
            hidden = hidden + self._summed(self._feed_forward(_norm(hidden), layer))
        if self.stage < self.pp - 1:
            dist.send(hidden, self.rank + self.tp)
            made = torch.empty(len(pieces), dtype=torch.int64)
        else:
            ends = torch.tensor([piece.new for piece in pieces]).cumsum(0) - 1
            made = (_norm(hidden[ends]) @ self.embedding.T).argmax(dim=-1)
        if self.pp > 1:
            dist.broadcast(made, src=self.tp * (self.pp - 1))
        self.latest[[piece.slot for piece in pieces]] = made

    def _received(self, num_rows: int) -> Tensor:
        """What the stage before made of the rows."""
        rows = torch.empty(num_rows, self.shape.hidden_size)
        dist.recv(rows, self.rank - self.tp)
        return rows

    def _attend(self, rows: Tensor, layer: _Layer, kept: Tensor, pieces: list[Piece], places: Tensor) -> Tensor:
        """(R, H) -> this rank's part of (R, H); keys and values of the rows are kept."""
        dim = self.shape.head_dim
        packed = (rows @ layer.query_key_value.T).view(len(rows), -1, dim).transpose(0, 1)
        query, key, value = packed.split([self.heads, self.groups, self.groups])
        query, key = rotate(query[None], key[None], places)
        contexts, row = [], 0
        for piece in pieces:
            end, reach = row + piece.new, piece.past + piece.new
            kept[0, piece.slot, :, piece.past : reach] = key[0, :, row:end]
            kept[1, piece.slot, :, piece.past : reach] = value[:, row:end]
            mask = None
            if piece.new > 1:
                mask = torch.ones(piece.new, reach, dtype=torch.bool).tril(piece.past)
            contexts.append(
                F.scaled_dot_product_attention(
                    query[:, :, row:end],
                    kept[0, piece.slot, None, :, :reach],
                    kept[1, piece.slot, None, :, :reach],
                    attn_mask=mask,
                    enable_gqa=self.heads != self.groups,
                )
            )
            row = end
        return torch.cat(contexts, dim=2)[0].transpose(0, 1).flatten(1) @ layer.out.T

    def _feed_forward(self, rows: Tensor, layer: _Layer) -> Tensor:
        inner = rows @ layer.up.T
        if self.shape.gated_ffn:
            gate, up = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * up
        else:
            inner = F.gelu(inner)
        return inner @ layer.down.T

    def _summed(self, part: Tensor) -> Tensor:
        """The sum over tensor-parallel ranks."""
        if self.tp > 1:
            dist.all_reduce(part, group=self.group)
        return part


def _norm(rows: Tensor) -> Tensor:
    return F.rms_norm(rows, rows.shape[-1:])
