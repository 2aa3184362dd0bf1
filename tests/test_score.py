"""The score board: reading tables, resolving rows, errors and ranks; and the accuracy it must keep."""

import csv
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.estimate import estimate
from planner.plan import Recompute
from validate.runs.frameworks import RULES, framework_of, stack_of
from validate.runs.pricing import priced
from validate.runs.published import published_runs
from validate.runs.resolve import Unmodelled, resolve
from validate.runs.table import COLUMNS, BadTable, Run, read_runs
from validate.score.agreement import Errors, Ranking, confusion, rank_correlation, regret
from validate.score.training import families, measured_seconds, score_runs, score_training, settings_of

PAPER = published_runs("sequence_parallelism_table5")


def changed(run: Run, **changes: object) -> Run:
    """A run with other fields."""
    return dataclasses.replace(run, **changes)


def write(path: Path, runs: list[dict[str, object]], header: tuple[str, ...] = COLUMNS) -> Path:
    """A table of `runs` in a file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        writer.writerows(runs)
    return path


def test_the_sequence_parallelism_paper_is_met_within_five_percent() -> None:
    score = score_runs(PAPER)
    assert score.overall.n == 8
    assert score.overall.mape is not None
    assert score.baseline.mape is not None
    assert score.overall.mape <= 0.05
    assert score.overall.mape < score.baseline.mape
    assert score.skipped == {}


def test_a_paper_is_resolved_as_it_says() -> None:
    setting = resolve(PAPER[3])
    assert str(setting.plan) == "tp8 pp8 vp3 mb1 interleaved sp recompute=selective"
    assert setting.cluster.num_devices == 64
    assert setting.stack.attention_kernel == "unfused"
    assert setting.job.model.num_layers == 96
    assert resolve(PAPER[2]).plan.recompute == Recompute.FULL


def test_nothing_depends_on_names() -> None:
    renamed = [changed(run, id=f"x-{run.id}", source="elsewhere", model="unheard of") for run in PAPER]
    found, expected = score_runs(renamed), score_runs(PAPER)
    assert found.overall == expected.overall


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"notes": "the log is INVALID"}, "INVALID"),
        ({"framework": "home-made"}, "framework"),
        ({"zero_stage_or_fsdp": "zero++"}, "sharding"),
        ({"layers": None}, "model shape"),
        ({"params_b": 2000.0, "vocab": 51200}, "stated size"),
        ({"micro_batch_seqs": None}, "split"),
        ({"dp": 2}, "number of accelerators"),
        ({"global_batch_seqs": 63, "micro_batch_seqs": 2}, "multiple"),
        ({"accelerator": "abacus"}, "catalog"),
        ({"recompute": "sometimes"}, "recomputation"),
        ({"precision": "fp2"}, "precision"),
        ({"precision": "fp8"}, "no peak"),
        ({"other_flags": "full CPU offload", "accelerator": "MI250X"}, "offloaded"),
        ({"heads": 95}, "heads"),
        ({"num_experts": 8}, "experts"),
        ({"framework": "NeMo 24.07", "vp": None, "global_batch_seqs": 60}, "virtual stages"),
    ],
)
def test_rows_that_cannot_be_modelled_say_why(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(Unmodelled, match=reason):
        resolve(changed(PAPER[2], **changes))
    assert sum(score_runs([changed(PAPER[2], **changes)]).skipped.values()) == 1


def test_rows_without_any_figure_are_counted_too() -> None:
    silent = changed(PAPER[0], iteration_time_s=None)
    assert score_runs([silent]).skipped == {"no iteration time": 1}
    spoken = changed(silent, tokens_per_s_per_gpu=4 * 2048 / 8 / 1.42)
    assert measured_seconds(spoken) == pytest.approx(1.42)


@pytest.mark.parametrize("column", [name for name in COLUMNS if name not in ("id", "source", "model")])
@pytest.mark.parametrize("text", ["0", "1", "1e15", "1e-15", "true", ""])
def test_no_cell_of_a_run_breaks_the_score(tmp_path: Path, column: str, text: str) -> None:
    row = {name: "" if value is None else str(value) for name, value in dataclasses.asdict(PAPER[2]).items()}
    path = write(tmp_path / "runs.csv", [row | {column: text}])
    try:
        runs = read_runs(path)
    except BadTable as refused:
        runs, sentence = (), str(refused)
        assert column in sentence
    score = score_runs(runs)
    assert len(score.scored) + sum(score.skipped.values()) == len(runs)


def test_network_rates_are_read_from_the_interconnect() -> None:
    def rate(interconnect: str) -> float:
        return resolve(changed(PAPER[2], interconnect=interconnect)).cluster.tiers[-1].bytes_per_second

    assert rate("inter-node 800 Gb/s") == pytest.approx(100e9 / 8)
    assert rate("NVLink; 400 Gb/s RDMA per GPU") == pytest.approx(50e9)
    assert rate("4x Omni-Path links/node") == pytest.approx(4 * 12.5e9 / 8)


def test_frameworks_are_told_apart() -> None:
    def stack(**changes: object) -> str:
        run = changed(PAPER[0], attention_kernel="", **changes)
        rule = framework_of(run)
        assert rule is not None
        return stack_of(run, rule).name

    assert stack(framework="Megatron-DeepSpeed", precision="fp16") == "megatron-deepspeed-2022"
    assert stack(framework="Megatron-DeepSpeed (fork)", precision="bf16") == "megatron-deepspeed-bf16-2022"
    assert stack(framework="NeMo 24.07") == "nemo"
    assert stack(framework="Megatron-LM abc + TE 2.11") == "megatron-core-no-overlap"
    assert stack(framework="torchtitan", other_flags="torch.compile; Float8") == "torchtitan"
    assert stack(framework="torchtitan", other_flags="") == "torchtitan-eager"
    assert stack(framework="Pax (JAX)") == "jax-2022"
    assert stack(framework="MaxText") == "jax-flash"
    assert stack(framework="MLPerf submission (NeMo)", accelerator="H100") == "nemo"
    assert stack(framework="Megatron-LM", accelerator="A100-80GB") == "megatron-lm-2022"
    assert stack(framework="Megatron-LM", accelerator="H100-SXM-80GB") == "megatron-core-no-overlap"
    assert framework_of(changed(PAPER[0], framework="home-made")) is None
    flagged = changed(PAPER[0], framework="Megatron-LM + TE", other_flags="cross-entropy fusion (cef)")
    assert stack_of(flagged, RULES[5]).loss_bytes_per_logit == 2.0


def test_memory_and_failures_are_scored() -> None:
    fits = changed(PAPER[0], peak_memory_gb=50.0, notes="max allocated GiB")
    bursts = changed(PAPER[0], micro_batch_seqs=4, global_batch_seqs=4, recompute="none", seq_len=16384, oom=True)
    score = score_runs([fits, bursts])
    assert score.memory["allocated"].n == 1
    counts = {"true_positive": 1, "false_positive": 0, "true_negative": 1, "false_negative": 0, "undecided": 0}
    assert score.oom == counts
    assert score.overall.n == 1


def test_families_hold_plans_of_the_same_work() -> None:
    score = score_runs(PAPER)
    assert [len(family) for family in families(score.scored)] == [2, 2, 2, 2]
    assert score.ranking.families == 4
    assert score.ranking.regret_max == 0.0
    assert score.ranking.kendall_tau == 1.0


def test_the_board_as_plain_values() -> None:
    board = score_runs(PAPER, rows=True).as_dict()
    assert {"schema_version", "overall", "by_source", "by_accelerator", "baseline", "memory", "oom", "ranking",
            "skipped", "rows"} == set(board)  # fmt: skip
    assert {"n", "mape", "median", "p90", "max", "bias", "coverage"} == set(board["overall"])
    assert {"id", "measured", "predicted", "low", "high"} <= set(board["rows"][0])
    assert all(row["low"] < row["predicted"] * 1.3 < 2 * row["high"] for row in board["rows"])
    inside = [row["low"] <= row["measured"] <= row["high"] for row in board["rows"]]
    assert board["overall"]["coverage"] == sum(inside) / len(inside)
    assert list(board["by_accelerator"]) == ["a100-sxm-80gb"]


def test_an_empty_table_has_an_empty_board(tmp_path: Path) -> None:
    score = score_training(write(tmp_path / "none.csv", []))
    assert score.overall.n == 0
    assert score.ranking.families == 0
    assert score.overall.mape is None


def test_progress_ends_with_all_rows() -> None:
    seen: list[tuple[int, int]] = []
    score_runs([*PAPER[:3], changed(PAPER[3], layers=None)], on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(set(seen))
    assert seen[-1] == (4, 4)


def test_runs_priced_together_are_priced_as_alone() -> None:
    settings, _ = settings_of([*PAPER, *[changed(run, micro_batch_seqs=1) for run in PAPER]])
    for setting, found in zip(settings, priced(settings), strict=True):
        alone = estimate(setting.plan, setting.job, setting.cluster, setting.stack)
        assert found.step_seconds == pytest.approx(alone.step_seconds, rel=1e-12)
        assert found.memory.peak_bytes == pytest.approx(alone.memory.peak_bytes, rel=1e-12)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["line 1", "empty"]),
        (b"id,source\n", ["line 1", "lacks", "model"]),
        ((",".join(COLUMNS) + ",colour\n").encode(), ["line 1", "unknown", "colour"]),
        ((",".join(COLUMNS) + "\n1,2\n").encode(), ["line 2", "2 fields"]),
        ((",".join(COLUMNS) + '\n"never closed').encode(), ["line 2", "CSV"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
    ],
)
def test_a_malformed_table_is_one_sentence(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(BadTable) as caught:
        read_runs(path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["runs.csv", *words])


@pytest.mark.parametrize(
    ("column", "text", "what"),
    [("tp", "eight", "number"), ("tp", "1.5", "whole"), ("layers", "nan", "finite"), ("oom", "perhaps", "true"),
     ("iteration_time_s", "-1", "negative"), ("hidden", "inf", "finite"), ("hidden", "1e30", "between"),
     ("iteration_time_s", "1e-300", "between")],
)  # fmt: skip
def test_a_wrong_value_names_line_and_column(tmp_path: Path, column: str, text: str, what: str) -> None:
    good = dict.fromkeys(COLUMNS, "")
    path = write(tmp_path / "runs.csv", [good, good | {column: text}])
    with pytest.raises(BadTable, match=rf"line 3, column {column}: .*{what}"):
        read_runs(path)


def test_a_missing_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadTable, match="cannot be read"):
        read_runs(tmp_path / "nowhere.csv")


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=20))
def test_errors_of_a_scaled_prediction(measured: list[float]) -> None:
    errors = Errors.of([1.1 * value for value in measured], measured, [True] * len(measured))
    for figure in (errors.mape, errors.median, errors.p90, errors.max, errors.bias):
        assert figure == pytest.approx(0.1)
    assert errors.coverage == 1.0


@given(st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.1, 10.0)), min_size=2, max_size=12))
def test_regret_is_never_negative_and_zero_for_perfect_predictions(pairs: list[tuple[float, float]]) -> None:
    predicted, measured = zip(*pairs, strict=True)
    assert regret(predicted, measured) >= regret(predicted, measured, tries=3) >= 0.0
    assert regret(measured, measured) == 0.0
    assert rank_correlation(measured, measured) in (None, pytest.approx(1.0))


def test_rankings_and_counts() -> None:
    ranking = Ranking.of([([1.0, 2.0, 3.0], [2.0, 1.0, 3.0]), ([1.0, 2.0], [1.0, 2.0])])
    assert ranking.regret_mean == pytest.approx(0.5)
    assert ranking.regret_max == 1.0
    assert ranking.regret_top3_mean == 0.0
    assert ranking.kendall_tau == pytest.approx((1 / 3 + 1.0) / 2)
    assert confusion([True, False, True], [True, True, False]) == {
        "true_positive": 1, "false_positive": 1, "true_negative": 0, "false_negative": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("hidden", "heads"), [(1024, 16), (4096, 32), (8192, 64)])
def test_heads_that_no_source_states_have_the_usual_width(hidden: int, heads: int) -> None:
    run = changed(PAPER[0], model="", hidden=hidden, ffn_hidden=None, heads=None, kv_heads=None, params_b=None)
    assert getattr(resolve(run).job.model, "num_heads", None) == heads
    with pytest.raises(Unmodelled, match="heads"):
        resolve(changed(run, hidden=14400))


def test_a_framework_without_accumulation_runs_its_batch_at_once() -> None:
    whole = {"tp": None, "pp": None, "dp": None, "micro_batch_seqs": None, "vp": None, "recompute": "", "sp": None}
    run = changed(PAPER[0], framework="MaxText", zero_stage_or_fsdp="fsdp", global_batch_seqs=32, **whole)
    assert str(resolve(run).plan) == "dp8 mb4 zero3"
    assert resolve(changed(run, tp=2, dp=4)).plan.micro_batch == 8
    assert str(resolve(changed(run, zero_stage_or_fsdp="")).plan) == "dp8 mb4 zero3"
    alpa = {"framework": "Alpa", "zero_stage_or_fsdp": ""}
    for unclear in ({"global_batch_seqs": 33}, alpa, {"framework": "NeMo"}, {"pp": 2}):
        with pytest.raises(Unmodelled, match="split"):
            resolve(changed(run, **unclear))


def test_recipes_that_interleave_do_so_layer_by_layer_unless_told() -> None:
    unsaid = changed(PAPER[3], framework="NeMo 24.07", vp=None)
    assert resolve(unsaid).plan.vp == 96 // 8
    assert resolve(changed(unsaid, vp=3)).plan.vp == 3
    assert resolve(changed(unsaid, other_flags="1F1B schedule")).plan.vp == 1
    assert resolve(changed(unsaid, framework="Megatron-LM")).plan.vp == 1
