"""The records of models: every file of the catalogue honours the same contract."""

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from profiles import catalog
from profiles.model import LayerList, MixtureOfExperts, TransformerShape

FILES = sorted((Path(catalog.__file__).parent / "data" / "models").glob("*.toml"))
TINY = {
    "name": "tiny", "source": "made for a test", "family": "test", "num_layers": 12, "hidden_size": 64,
    "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_size": 256, "vocabulary_size": 100,
    "max_sequence_length": 128,
}  # fmt: skip
MLA = {"kv_lora_rank": 8, "qk_nope_head_dim": 12, "qk_rope_head_dim": 4, "v_head_dim": 12}


def tiny(**changes: object) -> TransformerShape:
    return TransformerShape.model_validate(TINY | changes)


def test_the_catalogue_has_more_than_eighty_transformers_and_three_layer_lists():
    kinds = [type(catalog.model(path.stem)) for path in FILES]
    assert kinds.count(TransformerShape) > 80
    assert kinds.count(LayerList) == 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestEveryModel:
    def test_is_found_by_its_stem_and_by_its_aliases(self, path: Path):
        model = catalog.model(path.stem)
        assert model.name == path.stem
        assert {catalog.model(alias).name for alias in model.aliases} <= {path.stem}

    def test_names_a_source_that_is_not_recollection(self, path: Path):
        model = catalog.model(path.stem)
        assert len(model.source) > 10
        assert "memory" not in model.source

    def test_marks_only_figures_it_has_as_unverified(self, path: Path):
        model = catalog.model(path.stem)
        assert all(getattr(model, field) is not None for field in model.unverified)

    def test_states_no_field_that_is_the_default(self, path: Path):
        values = tomllib.loads(path.read_text())
        record = type(catalog.model(path.stem))
        stated = {key for key in values.keys() - {"norm", "kind"} if values[key] == record.model_fields[key].default}
        assert not stated

    def test_has_heads_and_layers_that_fit(self, path: Path):
        model = catalog.model(path.stem)
        if isinstance(model, LayerList):
            assert len({layer.name for layer in model.layers}) == model.num_layers
            return
        assert sum(model.is_sparse_layer) == 0 or model.moe is not None
        assert 0 <= model.num_full_attention_layers <= model.num_layers
        assert model.num_learned_positions == 0 or model.num_learned_positions >= model.max_sequence_length


def test_no_two_models_share_an_alias():
    spelled = [alias for path in FILES for alias in (path.stem, *catalog.model(path.stem).aliases)]
    assert len({name.casefold() for name in spelled}) == len(spelled)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("llama3-70b", "llama3-70b"),
        ("Llama-3-70B", "llama3-70b"),
        ("meta-llama/Meta-Llama-3-70B", "llama3-70b"),
        ("gpt3-175b", "gpt3-175B"),
        ("gpt-3", "gpt3-175B"),
        ("mt-nlg", "turing-530B"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("resnet50", "resnet-50"),
    ],
)
def test_names_people_type(typed: str, name: str):
    assert catalog.model(typed).name == name


class TestLayerKinds:
    def test_dense(self):
        assert tiny().is_sparse_layer == (False,) * 12

    @pytest.mark.parametrize(
        ("first", "step", "sparse"),
        [(0, 1, range(12)), (3, 1, range(3, 12)), (0, 2, range(1, 12, 2)), (1, 3, (3, 6, 9)), (20, 1, ())],
    )
    def test_sparse(self, first: int, step: int, sparse: range):
        experts = {"num_experts": 4, "top_k": 2, "expert_ffn_size": 8}
        model = tiny(moe=experts | {"num_first_dense_layers": first, "layer_step": step})
        assert [layer for layer, is_sparse in enumerate(model.is_sparse_layer) if is_sparse] == list(sparse)

    def test_windows(self):
        assert tiny().num_full_attention_layers == 12
        assert tiny(sliding_window=8).num_full_attention_layers == 0
        assert tiny(sliding_window=8, full_attention_step=5).num_full_attention_layers == 2

    def test_shared_experts_are_as_wide_as_routed_ones_unless_told_otherwise(self):
        moe = MixtureOfExperts(num_experts=4, top_k=2, expert_ffn_size=8, num_shared_experts=3)
        assert moe.shared_width == 24
        assert moe.model_copy(update={"shared_ffn_size": 100}).shared_width == 100


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_layers": 10**9}, "num_layers"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"num_head": 4}, "num_head"),
        ({"source": ""}, "source"),
        ({"norm": "batch_norm"}, "norm"),
        ({"num_extra_parameters": float("nan")}, "num_extra_parameters"),
        ({"moe": {"num_experts": 2, "top_k": 3, "expert_ffn_size": 8}}, "top_k"),
        ({"mla": MLA | {"qk_rope_head_dim": 5}}, "head_dim"),
        ({"mla": MLA, "qkv_bias": True}, "qkv_bias"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, object], field: str):
    with pytest.raises(ValidationError, match=field):
        tiny(**changes)
