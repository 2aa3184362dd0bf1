"""The transformer that is really run: its weights, its shapes, its mathematics."""

import math

import pytest

torch = pytest.importorskip("torch")

from profiles.model import TransformerShape  # noqa: E402
from profiles.parameters import num_parameters  # noqa: E402
from validate.models import build_stage, rotate, token_batch, token_loss  # noqa: E402

SHAPE = TransformerShape(
    name="small", source="made up for tests", family="gpt", num_layers=3, hidden_size=24, num_heads=6, num_kv_heads=6,
    head_dim=4, ffn_size=40, vocabulary_size=50, max_sequence_length=12, num_learned_positions=12,
    norm="layer_norm", qkv_bias=True, linear_bias=True,
)  # fmt: skip
VARIANTS = {
    "gpt": {},
    "grouped": {"num_kv_heads": 2},
    "gated": {"gated_ffn": True},
    "tied": {"tied_embeddings": True},
    "llama": {
        "num_kv_heads": 3, "gated_ffn": True, "norm": "rms_norm", "qkv_bias": False, "linear_bias": False,
        "num_learned_positions": 0,
    },
    "qkv bias": {"linear_bias": False},
    "encoder": {"causal": False},
}  # fmt: skip


def whole(shape: TransformerShape, seed: int = 0) -> torch.nn.Module:
    return build_stage(shape, range(shape.num_layers), first=True, last=True, seed=seed)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_it_holds_the_parameters_of_its_shape(changes: dict) -> None:
    shape = SHAPE.model_copy(update=changes)
    assert sum(p.numel() for p in whole(shape).parameters()) == num_parameters(shape)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_finite_and_the_first_loss_is_that_of_guessing(changes: dict) -> None:
    shape = SHAPE.model_copy(update=changes)
    inputs, targets = token_batch(shape, 4, 12, seed=3)
    logits = whole(shape)(inputs)
    assert logits.shape == (4, 12, 50)
    assert token_loss(logits, targets).item() == pytest.approx(math.log(50), rel=0.1)


@pytest.mark.parametrize(("causal", "leaks"), [(True, False), (False, True)])
def test_only_a_causal_model_is_blind_to_the_future(causal: bool, leaks: bool) -> None:
    model = whole(SHAPE.model_copy(update={"causal": causal}))
    inputs, _ = token_batch(SHAPE, 1, 12, seed=3)
    changed = inputs.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 50
    before, after = model(inputs)[:, :-1], model(changed)[:, :-1]
    assert bool((before - after).abs().max() > 1e-6) == leaks


def test_stages_hold_the_same_weights_as_the_whole() -> None:
    model = whole(SHAPE)
    first = build_stage(SHAPE, [0, 1], first=True, last=False, seed=0)
    second = build_stage(SHAPE, [2], first=False, last=True, seed=0)
    parts = dict(first.named_parameters()) | dict(second.named_parameters())
    assert set(parts) == set(dict(model.named_parameters()))
    assert all(torch.equal(parts[name], value) for name, value in model.named_parameters())
    inputs, _ = token_batch(SHAPE, 2, 12, seed=3)
    assert torch.equal(second(first(inputs)), model(inputs))


def test_seeds_differ_and_repeat() -> None:
    once, again, other = (whole(SHAPE, seed).layers["0"].ffn.up.weight for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_grouped_attention_equals_full_attention_with_repeated_keys() -> None:
    grouped = whole(SHAPE.model_copy(update={"num_kv_heads": 2})).layers["0"].attention
    full = whole(SHAPE).layers["0"].attention
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = getattr(grouped.qkv, name).detach().unflatten(0, (2, 5, 4))
            repeated = [
                torch.stack((rows[head // 3, head % 3], rows[head // 3, 3], rows[head // 3, 4])) for head in range(6)
            ]
            getattr(full.qkv, name).copy_(torch.stack(repeated).flatten(0, 2))
        full.out.load_state_dict(grouped.out.state_dict())
        hidden = torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(grouped(hidden), full(hidden), atol=1e-6)


def test_rotary_scores_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, generator=generator).expand(1, 1, 10, 8) for _ in range(2))
    turned_query, turned_key = rotate(query, key)
    scores = (turned_query @ turned_key.transpose(-1, -2))[0, 0]
    for distance in range(-9, 10):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5)
    assert torch.allclose(turned_query.norm(dim=-1), query.norm(dim=-1), atol=1e-5)


def test_targets_are_the_next_tokens() -> None:
    inputs, targets = token_batch(SHAPE, 3, 12, seed=5)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert int(inputs.max()) < 50
