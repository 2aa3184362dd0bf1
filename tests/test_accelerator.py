"""Every accelerator of the catalog keeps the contract; peaks answer by precision."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.units import GIB, GIGA, MEGA, TERA

NAMES = catalog.names("accelerators")


def device(**changes: object) -> Accelerator:
    values = {
        "name": "toy",
        "source": "a test",
        "vendor": "none",
        "kind": "gpu",
        "peak_tflops": {"bf16": 100.0, "fp32": 10.0},
        "memory_gib": 16,
        "memory_gb_per_second": 1000,
    }
    return Accelerator.model_validate(values | changes)


def test_there_are_accelerators_of_every_kind() -> None:
    assert len(NAMES) >= 55
    assert {catalog.accelerator(name).kind for name in NAMES} == {"gpu", "tpu", "npu", "cpu", "fpga"}


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    record = catalog.accelerator(name)
    assert record.name == name
    assert re.fullmatch(r"[a-z0-9]+([-.][a-z0-9]+)*", name)
    assert len(record.source) > 10
    assert 1 * TERA <= max(record.peak_flops_per_second.values()) <= 20_000 * TERA
    assert 8 * GIB <= record.memory_bytes <= 8192 * GIB
    assert 100 * GIGA <= record.memory_bytes_per_second <= 10_000 * GIGA
    assert record.cache_bytes is None or 1 * MEGA <= record.cache_bytes <= 1000 * MEGA
    assert record.power_watts is None or 50 <= record.power_watts <= 1500
    assert record.num_cores is None or record.num_cores <= 10_000


@pytest.mark.parametrize("name", NAMES)
def test_unverified_names_figures_that_exist(name: str) -> None:
    record = catalog.accelerator(name)
    for field in record.unverified:
        head, _, dtype = field.partition(".")
        value = getattr(record, head)
        assert value is not None
        assert not dtype or dtype in value


@pytest.mark.parametrize("name", NAMES)
def test_peaks_are_dense(name: str) -> None:
    """A 2:4-sparse figure beside a dense one would show as a factor above two."""
    peaks = catalog.accelerator(name).peak_flops_per_second
    wide = max(peaks.get("bf16", 0.0), peaks.get("fp16", 0.0))
    known = [peak for peak in (wide, peaks.get("fp8"), peaks.get("fp4")) if peak]
    assert known == sorted(known)
    ratios = [narrow / wide for wide, narrow in pairwise(known)]
    limits = {"rtx-5090": 4.1, "b300-sxm": 3.2, "gb300": 3.1, "trainium3": 3.8}  # 4-bit units beyond twice fp8
    assert all(ratio <= limits.get(name, 2.03) for ratio in ratios)


def test_memory_of_measured_devices() -> None:
    assert catalog.accelerator("h100-sxm").memory_bytes == 80 * GIB
    assert catalog.accelerator("h200-sxm").memory_bytes == pytest.approx(141 * GIB, rel=1e-3)
    assert catalog.accelerator("mi300x").memory_bytes == 192 * GIB


def test_a_16_bit_format_stands_in_for_the_other() -> None:
    toy = device()
    assert toy.flops_per_second("bf16") == toy.flops_per_second("fp16") == 100 * TERA
    assert toy.flops_per_second("tf32") == toy.flops_per_second("fp32") == 10 * TERA
    assert catalog.accelerator("v100-sxm-32gb").flops_per_second("bf16") == 125 * TERA


def test_a_format_the_device_lacks_is_an_error_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="toy: no peak for precision 'fp8'; it has bf16, fp32"):
        device().flops_per_second("fp8")
    with pytest.raises(ValueError, match="alveo-u280: no peak for precision 'bf16'"):
        catalog.accelerator("alveo-u280").flops_per_second("bf16")


@pytest.mark.parametrize(
    "changes",
    [
        {"peak_tflops": {}},
        {"peak_tflops": {"bf17": 1.0}},
        {"peak_tflops": {"bf16": -1.0}},
        {"memory_gib": 0},
        {"memory_gb_per_second": float("nan")},
        {"kind": "abacus"},
        {"source": ""},
        {"memory_gb": 17.2},
    ],
)
def test_impossible_figures_do_not_load(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=re.escape(next(iter(changes)).split("_")[0])):
        device(**changes)


def test_files_hold_vendor_units_only() -> None:
    folder = Path(catalog.DATA) / "accelerators"
    for name in NAMES:
        text = (folder / f"{name}.toml").read_text()
        assert "_bytes = " not in text
        assert "e+" not in text
