"""`score serving`: rows become settings, benchmarks are played, figures are compared."""

import json
from pathlib import Path

import pytest

from planner.cost.serving import PriceBook
from planner.serving import Pool
from profiles import catalog
from tests.cli import faults, meshwise
from validate.runs.resolve import Unmodelled
from validate.runs.table import BadTable
from validate.score.serving.play import predict
from validate.score.serving.protocol import num_offline_requests
from validate.score.serving.resolve import forms_of, resolve_serving
from validate.score.serving.score import score_serving
from validate.score.serving.table import read_rows

HEADER = """\
engine,engine_version,model,gpu,tp,pp,ep,dp,moe_tp,weight_quant,kv_quant,mode,isl,osl,concurrency,batch_size,output_tok_s,\
ttft_ms,tpot_ms,origin,suspect,id
"""
LOOP = "aggregated, closed loop concurrency"
ROWS = f"""\
vllm,0.15.1,meta-llama/Llama-3.1-8B,h100_sxm,1,1,1,1,1,fp8,,"{LOOP}",512,64,4,4,,40,6,InferenceMAX dump,0,a
vllm,0.15.1,meta-llama/Llama-3.1-8B,h100_sxm,2,1,1,1,1,fp8,,"{LOOP}",512,64,4,4,,35,5,InferenceMAX dump,0,b
vllm,0.15.1,meta-llama/Llama-3.1-8B,h100_sxm,4,1,1,1,1,fp8,,"{LOOP}",512,64,4,4,,30,4,InferenceMAX dump,0,c
vllm,0.15.1,meta-llama/Llama-3.1-8B,h100_sxm,4,1,1,1,1,fp8,,"{LOOP}",512,64,4,4,,30,4,InferenceMAX dump,1,doubted
vllm,0.15.1,nobody/knows,h100_sxm,1,1,1,1,1,fp8,,"{LOOP}",512,64,4,4,,30,4,InferenceMAX dump,0,unknown
trtllm,1.0,LLaMA v3.1 8B,h100_sxm,1,1,1,1,,fp8,fp8,offline max load,128,32,,,20000,,,published,0,offline
vllm(splitwise 2023),2023,llama2-70b,a100_sxm,8,1,1,1,,fp16,fp16,static batch,512,8,,2,,200,60,profile,0,static
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A few rows of every protocol."""
    path = tmp_path / "serving.csv"
    path.write_text(HEADER + ROWS)
    return path


def test_every_protocol_is_played(table: Path) -> None:
    """Each row has the figures its protocol publishes; what cannot be modelled is counted by reason."""
    board = score_serving(table, rows=True)
    by_id = {row["id"]: row for row in board.rows or ()}
    assert set(by_id) == {"a", "b", "c", "offline", "static"}
    assert set(by_id["offline"]) == {"id", "engine", "plan", "throughput"}
    assert {"ttft", "tpot", "e2e", "throughput"} <= set(by_id["a"])
    assert board.skipped == {"marked suspect by the table": 1, "model nobody/knows is not in the catalog": 1}
    assert board.answered_fraction == pytest.approx(5 / 7)
    assert board.overall["tpot"].n == 4
    assert board.by_engine["vllm"]["tpot"].n == 3
    assert board.ranking.over_splits.groups == 1
    assert by_id["c"]["tpot"]["predicted"] < by_id["b"]["tpot"]["predicted"] < by_id["a"]["tpot"]["predicted"]
    assert (board.baseline["tpot"].bias or 0.0) < -0.3


def test_figures_of_a_closed_loop_agree_with_one_another(table: Path) -> None:
    """Little's law: the clients' requests under way are the rate times the time of each, first wave and drain aside."""
    setting = resolve_serving(read_rows(table)[0])
    figures = predict(setting, PriceBook())
    assert figures.e2e_seconds
    assert figures.output_tokens_per_second
    mean_tokens = 0.9 * setting.row.output_tokens
    under_way = figures.output_tokens_per_second / mean_tokens * figures.e2e_seconds
    assert under_way == pytest.approx(4.0, rel=0.1)
    assert figures == predict(setting, PriceBook())


@pytest.mark.parametrize(
    ("degrees", "meant"),
    [
        ("4,1,16,4,1", Pool(tp=4, ep=4)),
        ("16,1,4,1,4", Pool(tp=4, ep=4)),
        ("1,1,8,64,8", Pool(attention_dp=8, ep=8)),
        ("1,1,8,8,1", Pool(attention_dp=8, ep=8)),
        ("8,1,1,1,8", Pool(tp=8)),
        ("4,1,2,1,2", Pool(tp=4, ep=2)),
    ],
)
def test_degrees_that_square_a_mesh_are_undone(tmp_path: Path, degrees: str, meant: Pool) -> None:
    """Tables that write a mesh as a product of its degrees mean the mesh."""
    path = tmp_path / "one.csv"
    row = f'vllm,0.19.0,openai/gpt-oss-120b,b200_sxm,{degrees},fp4,,"{LOOP}",1024,1024,4,4,,30,4,InferenceMAX,0,x\n'
    path.write_text(HEADER + row)
    pool = resolve_serving(read_rows(path)[0]).plan.decode
    assert (pool.tp, pool.ep, pool.attention_dp) == (meant.tp, meant.ep, meant.attention_dp)


DISAGGREGATED = """\
backend,backend_version,model_path,system,precision,mode,isl,osl,prefill_num_workers,prefill_tp_size,prefill_moe_ep_size,\
decode_num_workers,decode_tp_size,decode_moe_ep_size,silicon_ttft_ms,silicon_tpot_ms,concurrency
vllm,0.18.0,openai/gpt-oss-120b,gb200,fp4,disagg,1024,128,1,4,4,2,4,4,400,9,8
vllm,0.18.0,openai/gpt-oss-120b,gb200,fp4,disagg,1024,128,,4,4,,4,4,400,9,8
"""


def test_disaggregated_runs(tmp_path: Path) -> None:
    """Pools and their numbers of workers are read; rows that leave those out are counted."""
    path = tmp_path / "pools.csv"
    path.write_text(DISAGGREGATED)
    plan = resolve_serving(read_rows(path)[0]).plan
    assert plan.prefill is not None
    assert (plan.prefill.replicas, plan.decode.replicas, plan.num_devices) == (1, 2, 12)
    board = score_serving(path)
    assert board.by_kind["sparse disaggregated"]["tpot"].n == 1
    assert board.skipped == {"numbers of prefill and decode workers are not stated": 1}


def test_a_power_limit_slows_prompts_alone(tmp_path: Path) -> None:
    """Rows measured under a limit: compute falls with the clock, memory does not."""
    path = tmp_path / "capped.csv"
    row = "vllm(splitwise 2023),2023,llama2-70b,{},8,1,1,1,,fp16,fp16,static batch,4096,8,,1,,200,60,profile,0,x\n"
    path.write_text(HEADER + row.format("h100_sxm") + row.format("h100_sxm_350W_powercap"))
    free, capped = (predict(resolve_serving(one), PriceBook()) for one in read_rows(path))
    assert capped.ttft_seconds > 1.05 * free.ttft_seconds
    assert capped.tpot_seconds == pytest.approx(free.tpot_seconds, rel=0.05)


def test_forms_are_those_of_published_checkpoints() -> None:
    """Mixtures of experts keep attention in 16 bits when experts have four."""
    hopper, blackwell = catalog.cluster("h100-sxm", 8), catalog.cluster("b200-sxm", 8)
    sparse, dense, oss = (catalog.model(name) for name in ("deepseek-r1", "llama3.1-70b", "gpt-oss-120b"))
    assert forms_of("nvfp4", sparse, blackwell) == ("bf16", "nvfp4")
    assert forms_of("fp8", sparse, hopper) == ("fp8_block", "fp8_block")
    assert forms_of("fp8", dense, hopper) == ("fp8", "fp8")
    assert forms_of("fp4", oss, hopper) == ("bf16", "w4a16_mxfp4")
    assert forms_of("fp4", oss, blackwell) == ("bf16", "w4a8_mxfp4_mxfp8")
    with pytest.raises(Unmodelled, match="quantisation int3"):
        forms_of("int3", dense, hopper)


def test_command(table: Path, tmp_path: Path) -> None:
    """Tables for people, stable keys for programs, one sentence for a table of something else."""
    shown = meshwise("score", "serving", str(table), "--rows")
    assert shown.code == 0
    assert "time to first token" in shown.out
    assert "answered 71.4%" in shown.out
    board = json.loads(meshwise("score", "serving", str(table), "--json").out)
    assert board["schema_version"] == 1
    assert set(board["overall"]) == {"ttft", "tpot", "e2e", "throughput"}
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    refused = meshwise("score", "serving", str(wrong))
    assert not faults(refused)
    assert "model, gpu, engine, isl, osl" in refused.err


def test_mistyped_cells_are_named(tmp_path: Path) -> None:
    """File, line and column; rows without lengths, or with absurd ones, are counted."""
    path = tmp_path / "odd.csv"
    path.write_text(HEADER + ROWS.replace(",512,64,4,4,,40,6", ",512,64,many,4,,40,6", 1))
    with pytest.raises(BadTable, match="line 2: column concurrency: 'many'"):
        read_rows(path)
    path.write_text(HEADER + ROWS.splitlines()[0].replace(",512,64,", ",,64,") + "\n")
    assert score_serving(path).skipped == {"lengths are not stated": 1}
    path.write_text(HEADER + ROWS.splitlines()[0].replace(",512,64,4,", ",512,64,4000000,") + "\n")
    assert score_serving(path).answered_fraction == 0.0


def _followed(release: str, split: str, precision: str, load: str, origin: str = "InferenceMAX dump") -> str:
    model = "deepseek-ai/DeepSeek-R1,b200_sxm"
    return f'trtllm,{release},{model},{split},{precision},,"{LOOP}",{load},,195,9,{origin},0,x'


RECIPES = [
    _followed("1.2.0rc6.post3", "8,1,1,1,8", "fp8", "1024,1024,16,16"),
    _followed("1.2.0rc6.post2", "8,1,1,1,8", "fp8", "1024,1024,16,16"),
    _followed("1.2.0rc6.post3", "8,1,1,1,8", "fp8", "999,1024,16,16"),
    _followed("1.2.0rc6.post3", "8,1,1,1,8", "fp8", "1024,1024,16,16", "mine"),
    _followed("1.2.0rc6.post3", "64,1,8,1,8", "fp4", "1024,1024,64,64"),
]


def test_rows_are_completed_from_their_recipes(tmp_path: Path) -> None:
    """Guesses follow the release and the lengths that were run with them, in tables of that benchmark alone."""
    path = tmp_path / "recipes.csv"
    path.write_text(HEADER + "\n".join(RECIPES))
    plans = [resolve_serving(row).plan for row in read_rows(path)]
    assert [plan.draft_tokens for plan in plans] == [3, 0, 0, 0, 1]
    assert (plans[-1].decode.tp, plans[-1].decode.attention_dp) == (1, 8)
    path.write_text(HEADER.replace("id\n", "id,draft_tokens\n") + RECIPES[0] + ",2\n")
    assert resolve_serving(read_rows(path)[0]).plan.draft_tokens == 2


STARTED = [
    _followed("1.1.0rc2.post2", "8,1,8,1,1", "fp4", "1024,1024,16,16"),
    _followed("1.2.0rc6.post2", "8,1,1,1,8", "fp8", "1024,1024,64,64"),
    _followed("1.2.0rc6.post3", "8,1,1,1,8", "fp8", "1024,1024,64,64"),
    _followed("1.2.0rc6.post3", "8,1,1,1,8", "fp8", "1024,1024,64,64", "AIConfigurator authors"),
    _followed("1.2.0rc6.post3", "8,1,1,1,8", "fp8", "1024,1024,64,64", "mine"),
]


def test_servers_are_started_as_the_scripts_of_their_benchmark_do(tmp_path: Path) -> None:
    """Budgets of one prompt and a row of every guess and request, or more; batches that wait; shares of memory."""
    path = tmp_path / "started.csv"
    path.write_text(HEADER + "\n".join(STARTED))
    settings = [resolve_serving(row) for row in read_rows(path)]
    assert [one.plan.decode.token_budget for one in settings] == [1152, 8192, 1344, 2624, 8192]
    assert [one.engine.batch_wait_iterations for one in settings] == [0, 40, 0, 0, 0]
    assert [one.engine.usable_memory_fraction for one in settings] == [0.8, 0.8, 0.8, 0.9, 0.9]
    assert all(one.started.of(catalog.engine(one.engine.name)) == one.engine for one in settings)


def test_a_file_of_latest_results_holds_the_later_run(tmp_path: Path) -> None:
    """Of two runs of one release and split, with guesses and without, the one whose recipe came last before its day."""
    path = tmp_path / "latest.csv"
    days = ("2025-12-31", "2026-03-25")
    rows = [
        f"{_followed('1.1.0rc2.post2', '8,1,8,1,1', 'fp8', '1024,1024,16,16')},source_file={day}.csv" for day in days
    ]
    path.write_text(HEADER.replace("id\n", "id,notes\n") + "\n".join(rows))
    assert [resolve_serving(row).plan.draft_tokens for row in read_rows(path)] == [0, 3]


def test_pools_are_completed_from_their_recipes(tmp_path: Path) -> None:
    """Workers and groups of attention that a table of separate pools leaves out; without a recipe it is refused."""
    path = tmp_path / "pools.csv"
    header = (
        "id,backend,backend_version,model_path,system,precision,mode,isl,osl,concurrency,silicon_ttft_ms,"
        "silicon_tpot_ms,prefill_tp_size,prefill_moe_ep_size,decode_tp_size,decode_moe_ep_size\n"
    )
    row = "a,trtllm,0.8.1.post2,deepseek-ai/DeepSeek-R1,b200_sxm,fp8,disagg,1024,1024,8,300,5,8,8,8,1\n"
    path.write_text(header + row + row.replace("1024,1024,8,", "1024,1024,9,"))
    first, second = read_rows(path)
    plan = resolve_serving(first).plan
    assert plan.prefill is not None
    assert (plan.prefill.replicas, plan.prefill.attention_dp, plan.decode.replicas, plan.decode.tp) == (1, 8, 8, 8)
    assert plan.decode.max_sequences == 1
    with pytest.raises(Unmodelled, match="numbers of prefill and decode workers are not stated"):
        resolve_serving(second)


def test_a_run_follows_the_recipe_that_was_changed_last(tmp_path: Path) -> None:
    """The same row on two days: before recipes with guesses came, and on the day they were changed."""
    path = tmp_path / "pools.csv"
    header = "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,concurrency,"
    header += "silicon_ttft_ms,silicon_tpot_ms,prefill_tp_size,prefill_moe_ep_size,decode_tp_size,decode_moe_ep_size\n"
    row = "sglang,0.5.8.post1,deepseek-ai/DeepSeek-R1,b200_sxm,fp8,disagg,1024,1024,32,300,5,8,8,8,8\n"
    path.write_text(header + "".join(f"{day},measured={day}T01:00:00,{row}" for day in ("2026-02-07", "2026-02-13")))
    assert [resolve_serving(one).plan.draft_tokens for one in read_rows(path)] == [0, 2]


def test_one_run_fixes_an_engine(tmp_path: Path) -> None:
    """The record is nearer to the run, keeps all that was not fitted, and serves a job."""
    runs, record = tmp_path / "runs.csv", tmp_path / "mine.toml"
    runs.write_text(HEADER + ROWS.splitlines()[0].replace(",40,6,", ",90,9,") + "\n")
    shown = meshwise("calibrate", "--from-run", runs, "--output", record, "--json")
    assert shown.code == 0
    found = json.loads(shown.out)
    assert found["after"]["tpot"] < found["before"]["tpot"]
    assert found["after"]["ttft"] < found["before"]["ttft"]
    base, mine = catalog.engine("vllm"), catalog.engine(record)
    assert mine.borrowed_kernels == base.borrowed_kernels
    assert mine.fit is None
    job = tmp_path / "job.toml"
    job.write_text(
        '[job]\nkind = "serving"\ncluster = "dgx-h100"\n[load]\nrequests_per_second = 1.0\ninput_tokens = 512\n'
        'output_tokens = 64\n[serving]\nmodel = "llama3.1-8b"\nengine = "mine.toml"\n'
    )
    assert meshwise("estimate", job).code == 0
    assert meshwise("calibrate", "--from-run", runs, "--output", record, "--cluster", "dgx-h100", "--force").code == 2


OFFLINE = "trtllm,{},{},{},{},1,,1,,{},fp8,offline max load,{},,,9000,,,published,0,x,{}\n"


def test_offline_runs_are_those_of_their_documents(tmp_path: Path) -> None:
    """What the notes, the release and the lengths of TensorRT-LLM's own tables say of how a run was made."""
    path = tmp_path / "offline.csv"
    rows = [
        OFFLINE.format("1.0", "Qwen3-235B-A22B", "h100_sxm", 8, "fp8", "1000,1000", "attention-DP set in the yaml"),
        OFFLINE.format("0.13.0", "Mistral 7B", "h100_sxm", 1, "fp8", "20000,2000", ""),
        OFFLINE.format("1.0", "Mistral 7B", "h100_sxm", 1, "fp8", "20000,2000", ""),
    ]
    path.write_text(HEADER.replace("id\n", "id,notes\n") + "".join(rows))
    sparse, old, new = (resolve_serving(row) for row in read_rows(path))
    assert (sparse.plan.decode.tp, sparse.plan.decode.attention_dp, sparse.plan.decode.ep) == (1, 8, 8)
    assert sparse.plan.expert_weights == "fp8"
    rates = [predict(one, PriceBook()).output_tokens_per_second or 0.0 for one in (old, new)]
    assert 1.5 * rates[0] < rates[1]  # which release attends to more than the window
    assert num_offline_requests(128, 4096, 2048.0) == 1500
    assert num_offline_requests(128, 128, 100.0) == 4096
    assert [num_offline_requests(77, 77, slots) for slots in (1.0, 100.0, 1e6)] == [32, 300, 4096]


def test_a_run_in_other_units_fixes_nothing(tmp_path: Path) -> None:
    """Seconds where milliseconds belong are named, and no record is written."""
    runs, record = tmp_path / "runs.csv", tmp_path / "mine.toml"
    runs.write_text(HEADER + ROWS.splitlines()[0].replace(",40,6,", ",0.04,0.006,") + "\n")
    refused = meshwise("calibrate", "--from-run", runs, "--output", record)
    assert not faults(refused)
    assert "ttft_ms of a is" in refused.err
    assert not record.exists()
