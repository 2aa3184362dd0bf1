"""The shipped calibration records, and (where MESHWISE_MEASURED names the measured tables) their held-out errors."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from profiles import catalog
from profiles.calibration import CollectiveCurve, Fit, GemmCurve, KernelCurves, LinkCurves
from profiles.writer import to_toml

FIT = Fit(machine="none", date="2026", num_points=0, source="a test")
CURVES = [name for name in catalog.names("calibration") if name.startswith(("kernels/", "links/"))]
RECORDS = {name: catalog.load("calibration", name) for name in CURVES}
KERNELS = {name: record for name, record in RECORDS.items() if isinstance(record, KernelCurves)}
LINKS = {name: record for name, record in RECORDS.items() if isinstance(record, LinkCurves)}
WRITTEN_BY_HAND = {"links/pool-host", "links/omni-path", "kernels/v100-sxm-32gb"}
"""Of published figures, or assumed: no table holds them."""
MEASURED = os.environ.get("MESHWISE_MEASURED")
positive = st.floats(1e-9, 1e6)


def test_every_record_is_kernels_or_links() -> None:
    assert set(KERNELS) | set(LINKS) == set(RECORDS)
    assert {"kernels/pool", "kernels/a100-sxm-80gb", "kernels/h100-sxm"} <= set(KERNELS)
    assert {f"links/pool-{name}" for name in ("scale_up", "pcie", "network", "host")} <= set(LINKS)


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_curves_are_physical(name: str) -> None:
    record = KERNELS[name]
    for curve in record.gemm.values():
        assert curve.compute_efficiency_fraction <= 1
        assert curve.memory_efficiency_fraction <= 1
        assert curve.launch_seconds < 50e-6
    for attention in record.attention.values():
        at_128 = attention.compute_efficiency_fraction / (1 + attention.half_dim / 128)
        assert at_128 <= 0.8
        assert attention.memory_efficiency_fraction <= 1
        assert attention.backward_ratio <= 1
    assert record.elementwise.memory_efficiency_fraction <= 1


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_curves_serve_known_accelerators(name: str) -> None:
    for accelerator in KERNELS[name].accelerators:
        assert catalog.accelerator(accelerator).name == accelerator
        assert catalog.kernel_curves(accelerator) == KERNELS[name]


@pytest.mark.parametrize("name", LINKS)
def test_link_curves_serve_known_links(name: str) -> None:
    record = LINKS[name]
    for link in record.links:
        assert catalog.link(link).link_class == record.link_class
        assert catalog.link_curves(link, record.link_class) == record


@pytest.mark.parametrize("name", LINKS)
def test_link_curves_are_physical(name: str) -> None:
    for collective, curve in LINKS[name].collectives.items():
        # Two nodes that exchange each byte once reach nearly twice the ring's bus bandwidth; reducing switches too.
        most = 2.0 if collective == "all_reduce" else 1.0
        assert max(curve.bus_fraction) <= most
        assert max(curve.latency_seconds) < 1e-3


@pytest.mark.parametrize("name", RECORDS)
def test_every_curve_says_where_it_came_from(name: str) -> None:
    for curve, fit in RECORDS[name].fits().items():
        assert fit.machine, curve
        assert fit.date, curve
        assert len(fit.source) > 10, curve
        assert fit.num_points > 0 or name == "links/pool-host", curve


@pytest.mark.parametrize("name", RECORDS)
def test_records_survive_writing(name: str) -> None:
    record = RECORDS[name]
    again = type(record)(**tomllib.loads(to_toml(record)))
    assert to_toml(again) == to_toml(record)
    assert again.model_dump(exclude={"gemm", "attention", "elementwise", "collectives"}) == record.model_dump(
        exclude={"gemm", "attention", "elementwise", "collectives"}
    )


@given(positive, positive, st.text(min_size=1), st.booleans())
def test_any_curve_survives_writing(efficiency: float, seconds: float, machine: str, reduces: bool) -> None:
    fit = FIT.model_copy(update={"machine": machine})
    record = LinkCurves(
        name=machine, source=machine, link_class="host",
        collectives={
            "all_gather": CollectiveCurve(
                num_ranks=(2,), latency_seconds=(seconds,), bus_fraction=(efficiency,), exponent=(1.0,),
                in_network_reduction=reduces, fit=fit,
            )
        },
    )  # fmt: skip
    curve = LinkCurves(**tomllib.loads(to_toml(record))).collectives["all_gather"]
    assert curve.fit.machine == machine
    assert curve.in_network_reduction == reduces
    assert curve.latency_seconds[0] == pytest.approx(seconds, rel=1e-4)
    assert curve.bus_fraction[0] == pytest.approx(efficiency, rel=1e-4)


def test_unmeasured_formats_and_kernels_use_the_nearest() -> None:
    a100, b200 = catalog.kernel_curves("a100-sxm-80gb"), catalog.kernel_curves("b200-sxm")
    assert a100.gemm_curve("fp16") is a100.gemm["bf16"]
    assert a100.gemm_curve("fp32") is a100.gemm["bf16"]
    assert b200.gemm_curve("fp8") is b200.gemm["fp8"]
    assert a100.attention_curve("flash-3") is a100.attention["flash-2"]
    assert b200.attention_curve("flash-2") is b200.attention["flash-3"]
    nvlink = catalog.link_curves("nvlink-5", "scale_up")
    assert nvlink.curve("send_recv") is nvlink.collectives["all_gather"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exponent": (1.0,)}, "equal lengths"),
        ({"num_ranks": (4, 2)}, "must increase strictly"),
        ({"reduction_gain": (1.2,)}, "equal lengths"),
        ({"bus_fraction": (0.0, 0.5)}, "greater than 0"),
    ],
)
def test_bad_tables_do_not_load(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {
        "num_ranks": (2, 4), "latency_seconds": (1e-6, 2e-6), "bus_fraction": (0.5, 0.5), "exponent": (1.0, 1.0),
        "fit": FIT,
    }  # fmt: skip
    with pytest.raises(ValidationError, match=message):
        CollectiveCurve(**values | changes)


def test_a_slowdown_below_one_does_not_load() -> None:
    with pytest.raises(ValidationError, match="misaligned_factor"):
        GemmCurve(
            compute_efficiency_fraction=0.5, memory_efficiency_fraction=0.5, launch_seconds=0.0,
            misaligned_factor=0.5, fit=FIT,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(MEASURED is None, reason="MESHWISE_MEASURED does not name a folder of measured tables")
def test_the_shipped_curves_are_what_the_tables_give() -> None:
    from benchmarks.kernel_records import Kernels
    from benchmarks.link_records import Links

    folder = Path(str(MEASURED))
    fitted = {f"kernels/{record.name}": record for record in Kernels(folder).records()}
    fitted |= {f"links/{record.name}": record for record in Links(folder).records()}
    assert set(fitted) == set(RECORDS) - WRITTEN_BY_HAND
    for name, record in fitted.items():
        shipped = RECORDS[name].fits()
        for curve, fit in record.fits().items():
            stated = shipped[curve].held_out_median_error_fraction
            assert fit.num_points == shipped[curve].num_points, (name, curve)
            found = fit.held_out_median_error_fraction
            assert found == (stated and pytest.approx(stated, rel=0.02, abs=1e-3)), (name, curve)
