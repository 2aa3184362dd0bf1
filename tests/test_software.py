"""Every shipped software stack loads, names its sources, and differs from the others by what it says."""

import tomllib
from importlib.resources import files

import pytest
from pydantic import ValidationError

from profiles.catalog import software
from profiles.software import DEFAULT_STACK, SoftwareStack, default_stack, with_precisions

RECORDS = sorted((files("profiles") / "data" / "software").iterdir(), key=lambda record: record.name)
TOML = [record for record in RECORDS if record.name.endswith(".toml")]


@pytest.mark.parametrize("record", TOML, ids=lambda record: record.name)
def test_contract_of_every_stack(record) -> None:  # type: ignore[no-untyped-def]
    stack = SoftwareStack(**tomllib.loads(record.read_text(encoding="utf-8")))
    assert f"{stack.name}.toml" == record.name
    assert len(stack.source) > 40
    assert set(stack.unverified) <= set(SoftwareStack.model_fields)
    assert stack.loss_bytes_per_logit >= 2.0
    assert 1.0 <= stack.reserved_over_allocated < 1.5
    assert stack.host_seconds_per_launch < 1e-3
    if stack.weight_gradient_workspace:
        assert stack.fused_elementwise, "only Transformer Engine keeps dummy weight gradients"


def test_default_stack_is_shipped_and_named() -> None:
    assert default_stack().name == DEFAULT_STACK
    assert f"{DEFAULT_STACK}.toml" in {record.name for record in TOML}


def test_stacks_are_told_apart_by_more_than_their_names() -> None:
    described = [
        SoftwareStack(**tomllib.loads(record.read_text(encoding="utf-8"))).model_dump(
            exclude={"name", "source", "notes", "unverified"}
        )
        for record in TOML
    ]
    assert all(one != other for index, one in enumerate(described) for other in described[:index])


@pytest.mark.parametrize(
    ("field", "value"),
    [("tp_exposed_fraction", 1.5), ("attention_kernel", "fast"), ("gradient_bytes", 0), ("source", ""),
     ("reserved_over_allocated", 0.9), ("context_bytes", float("nan"))],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        SoftwareStack(**({"name": "mine", "source": "a test"} | {field: value}))


def test_narrow_gradients_and_moments_are_smaller_everywhere() -> None:
    stack = software("megatron-core")
    assert with_precisions(stack, None, None) is stack
    narrow = with_precisions(stack, "bf16", "int8")
    assert (narrow.gradient_bytes, narrow.moment_bytes) == (2.0, 1.0)
    assert narrow.accumulation_traffic_bytes_per_parameter == stack.accumulation_traffic_bytes_per_parameter - 4.0
    assert with_precisions(narrow, "fp32", "fp32") == stack
    two = with_precisions(software("megatron-deepspeed-bf16-2022"), "bf16", None)
    assert two.gradient_copy_bytes == 0.0
