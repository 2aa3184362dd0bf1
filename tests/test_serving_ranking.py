"""How choices are ranked in `score serving`, which rows contradict themselves, and how servers were started."""

from pathlib import Path

import numpy as np
import pytest

from planner.cost.serving import PriceBook, served_shard
from planner.serving import IterationShape
from tests.test_score_serving import HEADER, LOOP
from validate.score.serving.resolve import ServedSetting, resolve_serving
from validate.score.serving.score import ServingScore, score_serving
from validate.score.serving.table import read_rows

LLAMA = (
    'vllm,0.15.1,meta-llama/Llama-3.1-8B,h100_sxm,{tp},1,1,1,1,fp8,,"{loop}",512,64,4,'
    "{batch},,{ttft},{tpot},InferenceMAX,0,x\n"
)


def scored(path: Path, *runs: tuple[int, int, float]) -> ServingScore:
    """The board of runs of (tp, batch, TPOT in ms)."""
    lines = [LLAMA.format(tp=tp, loop=LOOP, batch=batch, ttft=30, tpot=tpot) for tp, batch, tpot in runs]
    path.write_text(HEADER + "".join(lines))
    return score_serving(path)


def test_a_run_that_is_written_twice_is_one_choice(tmp_path: Path) -> None:
    """The column of batches adds nothing to a loop's concurrency: what is measured again tells how runs repeat."""
    board = scored(tmp_path / "twice.csv", (1, 4, 6.0), (2, 4, 5.0), (4, 4, 4.0), (4, 1, 4.2))
    group = board.ranking.over_splits
    assert group.groups == 1
    assert not group.poorly_ranked
    assert board.ranking.over_many.groups == 0
    assert board.ranking.repeat_fraction == pytest.approx(np.log(282.0 / 270.0) / 0.954, rel=0.2)


def test_runs_that_repeat_badly_cannot_be_ranked_well(tmp_path: Path) -> None:
    """What exact predictions attain falls as measurements of one run differ more; without repeats it is not known."""
    runs = ((1, 4, 6.0), (2, 4, 3.0), (4, 4, 1.5))
    once = scored(tmp_path / "once.csv", *runs).ranking
    assert once.repeat_fraction is None
    assert once.over_all.spearman_ceiling is None
    steady, erratic = (
        scored(tmp_path / f"{index}.csv", *runs, (4, 4, again)).ranking.over_all.spearman_ceiling or 0.0
        for index, again in enumerate((1.51, 2.5))
    )
    assert 0.0 < erratic < steady <= 1.0


def test_waits_longer_than_answers_are_for_slots(tmp_path: Path) -> None:
    """A loop whose requests wait longer than they run had fewer slots than clients, if memory holds them all."""
    path = tmp_path / "waits.csv"
    path.write_text(HEADER + LLAMA.format(tp=1, loop=LOOP, batch=4, ttft=1000, tpot=6))
    board = score_serving(path)
    assert board.skipped == {"requests waited longer than they ran although memory holds all: slots are not stated": 1}


def setting_of(
    tmp_path: Path, degrees: str, quant: str, clients: int, model: str = "deepseek-ai/DeepSeek-R1"
) -> ServedSetting:
    """A run of SGLang on B200s under the benchmark whose scripts are published."""
    path = tmp_path / "one.csv"
    row = f'sglang,0.5.9,{model},b200_sxm,{degrees},{quant},,"{LOOP}",8192,1024,{clients},,,300,9,InferenceMAX,0,x\n'
    path.write_text(HEADER + row)
    return resolve_serving(read_rows(path)[0])


def test_servers_are_started_as_their_scripts_say(tmp_path: Path) -> None:
    """Tokens of an iteration and how often requests are looked for, by precision, ranks, clients
    and whether tokens are guessed."""
    wide, many = (setting_of(tmp_path, "8,1,1,1,8", "fp8", clients) for clients in (4, 16))
    narrow = setting_of(tmp_path, "4,1,1,1,4", "fp8", 16)
    four_bits = setting_of(tmp_path, "4,1,4,1,1", "fp4", 16)
    assert [one.plan.decode.token_budget for one in (wide, many, narrow, four_bits)] == [32768, 16384, 8192, 16384]
    assert many.plan.draft_tokens  # its recipe at 16 clients
    assert [one.engine.poll_interval_iterations for one in (wide, many, narrow, four_bits)] == [10, 30, 10, 30]


def test_what_only_prompts_take(tmp_path: Path) -> None:
    """A form's factor and the pieces of linear attention lengthen iterations with prompts, and no others; pieces of
    prompts side by side are taken together."""
    setting = setting_of(tmp_path, "4,1,4,1,1", "fp4", 4, "Qwen/Qwen3.5-397B-A17B")
    bare = setting.engine.model_copy(
        update={"prompt_time_factors": {}, "linear_attention_piece_seconds": 0.0, "host_seconds_per_prompt_launch": 0.0,
                "sparse_prompt_time_factor": 1.0}
    )  # fmt: skip
    book, shard = PriceBook(), served_shard(setting.plan, setting.plan.decode, bare)

    def seconds(shape: IterationShape, **constants: object) -> float:
        engine = bare.model_copy(update=constants)
        return book.prices(setting.model, shard, setting.cluster, engine).iteration_seconds(shape)

    one, two, decode = IterationShape((640,), (0,)), IterationShape((640, 640), (0, 0)), IterationShape((), (), 4, 4e3)
    factor = {"prompt_time_factors": {"nvfp4 blackwell": 1.5}}
    assert seconds(one, **factor) > 1.2 * seconds(one)
    assert seconds(decode, **factor) == seconds(decode)
    pieces = {"linear_attention_piece_seconds": 1e-3}
    added = [seconds(shape, **pieces) - seconds(shape) for shape in (one, two, decode)]
    layers = setting.model.num_layers - setting.model.num_full_attention_layers
    assert added == pytest.approx([10 * layers * 1e-3, 10 * layers * 1e-3, 0.0])
