"""An iteration of a served model: work adds up, splits share it, memory is what is left."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.knots import geometric
from planner.cost.kv import kv_bytes_per_token, serving_memory, weight_bytes
from planner.cost.serving import engine_prices, rank_seconds, served_shard
from planner.serving import IterationShape, Pool, ServingPlan, decode_run_seconds
from planner.work.iteration import ServedShard, decode_ops, head_ops, linear_ops, num_messages, prefill_ops, routed_ops
from planner.work.ops import Message
from profiles import catalog
from profiles.parameters import num_active_parameters, num_parameters

DENSE, SPARSE, LATENT = (catalog.model(name) for name in ("llama3.1-8b", "gpt-oss-120b", "deepseek-r1"))
ENGINE = catalog.engine("vllm")


def _flops(ops):
    return sum(times * op.flops for op, times in ops if not isinstance(op, Message))


def _layer_ops(model, shard, tokens):
    return *linear_ops(model, shard, tokens), *routed_ops(model, shard, tokens)


@pytest.mark.parametrize("model", [DENSE, SPARSE, LATENT], ids=lambda model: model.name)
def test_a_token_meets_the_active_parameters(model) -> None:
    """Two FLOPs for each of them but the embedding's."""
    shard = ServedShard()
    tokens = 4096.0
    flops = (_flops(_layer_ops(model, shard, tokens)) + _flops(head_ops(model, shard, tokens))) / tokens
    weights = num_active_parameters(model) - model.vocabulary_size * model.hidden_size
    assert flops == pytest.approx(2.0 * weights, rel=0.02)


@pytest.mark.parametrize("model", [DENSE, SPARSE, LATENT], ids=lambda model: model.name)
def test_ranks_share_the_work(model) -> None:
    """FLOPs of attention and feed-forward parts over all ranks are those of one; small shared products come on top."""
    whole = _flops(_layer_ops(model, ServedShard(), 512.0))
    split = 8.0 * _flops(_layer_ops(model, ServedShard(tp=8.0, ep=8.0 if model.moe else 1.0), 512.0))
    assert whole <= split < 1.25 * whole
    assert not num_messages(model, ServedShard())


def test_a_chunk_attends_to_its_past() -> None:
    """Pairs of two chunks add up to those of the whole prompt."""
    shard = ServedShard()
    whole = _flops(prefill_ops(DENSE, shard, 4096.0, 0.0))
    parts = _flops(prefill_ops(DENSE, shard, 1024.0, 0.0)) + _flops(prefill_ops(DENSE, shard, 3072.0, 1024.0))
    assert parts == pytest.approx(whole)


def test_a_window_bounds_what_is_read() -> None:
    """Half of the layers read no more than the window."""
    near, far = (sum(t * op.kv_bytes for op, t in decode_ops(SPARSE, ServedShard(), 1.0, c)) for c in (128.0, 12800.0))
    assert far == pytest.approx(0.5 * near * 100.0 + 0.5 * near)


def test_weights_of_ranks_are_the_model() -> None:
    """In 16 bits, over tp, pp and ep; small groups are held by all."""
    for model in (DENSE, SPARSE, LATENT):
        shard = ServedShard(tp=4.0, pp=2.0, ep=4.0)
        assert 8.0 * weight_bytes(model, shard) == pytest.approx(2.0 * num_parameters(model), rel=0.01)
    assert weight_bytes(DENSE, ServedShard(weights="fp8")) < 0.6 * weight_bytes(DENSE, ServedShard())


def test_keys_and_values() -> None:
    """Grouped heads are split until each rank has one; latents are held whole."""
    assert kv_bytes_per_token(DENSE, ServedShard()) == 2 * 2 * 32 * 8 * 128
    assert kv_bytes_per_token(DENSE, ServedShard(tp=16.0)) == kv_bytes_per_token(DENSE, ServedShard(tp=8.0))
    assert kv_bytes_per_token(LATENT, ServedShard(tp=8.0)) == 2 * 61 * 576
    assert kv_bytes_per_token(LATENT, ServedShard(kv_dtype="fp8")) == 61 * 576


def test_memory_that_weights_leave() -> None:
    """Groups of attention data parallelism hold tokens of their own; too large a model holds none."""
    device = catalog.accelerator("h200-sxm").memory_bytes
    one, four = (
        serving_memory(SPARSE, ServedShard(tp=4.0 / n, attention_dp=float(n), ep=4.0), device, ENGINE) for n in (1, 4)
    )
    assert four.num_kv_tokens * four.kv_bytes_per_token == pytest.approx(4 * four.kv_bytes)
    assert one.weight_bytes + one.overhead_bytes + one.kv_bytes == pytest.approx(0.9 * device)
    assert serving_memory(LATENT, ServedShard(tp=2.0), device, ENGINE).num_kv_tokens == 0.0


@pytest.fixture(scope="module")
def prices():
    cluster = catalog.cluster("dgx-h100", 4)
    return engine_prices(DENSE, served_shard(ServingPlan(), Pool(tp=4), ENGINE), cluster, ENGINE)


@given(num=st.integers(1, 300), context=st.integers(1, 9000), steps=st.integers(1, 60))
def test_a_run_of_decodes_is_its_iterations(prices, num, context, steps) -> None:
    """Lines of prices hold where they say they do."""
    total = float(num * context)
    shapes = [IterationShape(num_decodes=num, decode_context_tokens=total + num * step) for step in range(steps)]
    stepped = np.cumsum([prices.iteration_seconds(shape) for shape in shapes])
    np.testing.assert_allclose(decode_run_seconds(prices, num, total, steps), stepped, rtol=1e-12)
    assert (np.diff(stepped, prepend=0.0) > 0.0).all()


@given(num=st.integers(0, 300), context=st.integers(16, 9000), prompt=st.integers(1, 8000))
def test_a_prompt_takes_time(prices, num, context, prompt) -> None:
    """More than the same iteration without it, or with a shorter prompt."""
    with_prompt, longer = (
        prices.iteration_seconds(IterationShape((length,), (0,), num, float(num * context)))
        for length in (prompt, 2 * prompt)
    )
    assert with_prompt < longer
    if num:
        assert prices.decode_line(num, num * context).seconds(num * context) < with_prompt


def test_prices_between_knots_are_near_the_kernels() -> None:
    """Tables are dense enough: at odd sizes within 5 % of what kernels cost there."""
    cluster, shard = catalog.cluster("dgx-h100", 4), served_shard(ServingPlan(), Pool(tp=4), ENGINE)
    made = engine_prices(DENSE, shard, cluster, ENGINE.model_copy(update={"all_reduce_excess_seconds": 0.0}))
    for tokens in (37.0, 77.0, 333.0, 3000.0):
        exact = float(rank_seconds(linear_ops(DENSE, shard, tokens), shard, cluster))
        assert made.linear(tokens) == pytest.approx(exact, rel=0.05)
    exact = float(rank_seconds(decode_ops(DENSE, shard, 50.0, 3300.0), shard, cluster))
    assert made.decode(50.0, 3300.0) == pytest.approx(exact, rel=0.05)


def test_groups_of_attention_share_experts_and_not_prompts() -> None:
    """A lone prompt holds up the other groups by its attention; experts see its tokens alone."""
    cluster = catalog.cluster("b200-sxm", 8)
    shard = served_shard(ServingPlan(weights="fp8_block"), Pool(attention_dp=8, ep=8), ENGINE)
    made = engine_prices(LATENT, shard, cluster, ENGINE)
    one, eight = (made.iteration_seconds(IterationShape((4096,) * count, (0,) * count)) for count in (1, 8))
    assert one < 0.7 * eight
    assert eight < 8.0 * one


def test_tokens_go_to_the_ranks_they_need() -> None:
    """Beyond as many ranks as a token has experts, an exchange moves less than gathering everything does."""

    def sent(ranks: float) -> float:
        shard = ServedShard(attention_dp=ranks, ep=ranks, expert_weights="fp8")
        return float(sum(op.num_bytes for op, _ in routed_ops(LATENT, shard, 64.0) if isinstance(op, Message))) / ranks

    assert sent(32.0) < 0.3 * sent(8.0)


def test_nvfp4_checkpoints_hold_more_than_experts_in_four_bits() -> None:
    """Shared experts and plain layers too, which int4 checkpoints leave wide; tokens are gathered as they are read."""
    narrow, wide = (ServedShard(expert_weights=form) for form in ("nvfp4", "int4_wo"))
    assert narrow.feed_forward_form == narrow.output_form(LATENT) == "nvfp4"
    assert wide.feed_forward_form == "bf16"
    assert wide.output_form(LATENT) == narrow.output_form(DENSE) == "bf16"
    gathered = [
        next(op.num_bytes for op, _ in routed_ops(LATENT, shard, 64.0) if isinstance(op, Message))
        for shard in (ServedShard(attention_dp=4.0, ep=4.0, expert_weights=form) for form in ("nvfp4", "fp8_block"))
    ]
    assert gathered[0] < 0.3 * gathered[1]


def test_decoding_takes_the_faster_of_two_kernels() -> None:
    """Of experts: a second choice never slows decoding, and prompts keep the first."""
    cluster, plan, pool = catalog.cluster("b200-sxm", 8), ServingPlan(weights="fp8_block"), Pool(attention_dp=8, ep=8)
    first = ENGINE.model_copy(update={"borrowed_kernels": {"experts fp8_block": "sglang"}})
    both = first.model_copy(update={"decode_kernels": {"experts fp8_block": "trtllm"}})
    one, two = (engine_prices(LATENT, served_shard(plan, pool, engine), cluster, engine) for engine in (first, both))
    counts = (8, 512, 4096)
    lines = [[made.decode_line(count, 1e3 * count).seconds(1e3 * count) for count in counts] for made in (one, two)]
    assert all(a <= b for a, b in zip(lines[1], lines[0], strict=True))
    assert lines[1][-1] < 0.95 * lines[0][-1]
    prompts = IterationShape((4096,) * 8, (0,) * 8)
    assert one.iteration_seconds(prompts) == two.iteration_seconds(prompts)


def test_devices_without_measured_kernels_are_priced_by_rooflines() -> None:
    """A TPU and a CPU answer, and never beat their memory."""
    for name in ("tpu-v5e", "epyc-9654"):
        cluster = catalog.cluster(name, 1)
        made = engine_prices(catalog.model("llama3.2-1b"), ServedShard(), cluster, ENGINE)
        floor = weight_bytes(catalog.model("llama3.2-1b"), ServedShard()) / cluster.accelerator.memory_bytes_per_second
        assert made.decode_line(1, 100.0).seconds(100.0) > 0.8 * floor


def test_knots_are_whole_and_ordered() -> None:
    """Every number up to the limit, then a few in each doubling."""
    knots = geometric(1.0, 1024.0, 2, exact_until=8)
    assert knots[:8].tolist() == list(range(1, 9))
    assert (np.diff(knots) > 0).all()
    assert knots[-1] == 1024


def test_guesses_cost_rows_and_layers(prices) -> None:
    """An iteration that checks guesses takes longer, but less than the tokens it may make, when few requests run."""
    plain, guessing = (made.decode_line(4, 4000.0).seconds(4000.0) for made in (prices, prices.guessing(2)))
    assert plain < guessing < 2.0 * plain
    assert ServingPlan(draft_tokens=2, acceptance_fraction=0.5).tokens_per_iteration == 1.75
    many, guessed = (made.decode_line(400, 4e5).seconds(4e5) for made in (prices, prices.guessing(2)))
    assert guessed / many > guessing / plain


def test_launches_are_the_least_time_of_prompts() -> None:
    """Of latent attention and of guesses too; graphs leave a share of them. Iterations without prompts have none."""
    cluster, shard = catalog.cluster("h100-sxm", 8), served_shard(ServingPlan(), Pool(tp=8), ENGINE)
    made = engine_prices(LATENT, shard, cluster, ENGINE)
    prompt, decode = IterationShape((16,), (0,), 1, 100.0), IterationShape((), (), 1, 100.0)

    def floor(draft_tokens: int = 0, **constants: float) -> float:
        engine = ENGINE.model_copy(update={"host_seconds_per_prompt_launch": 1e-3, **constants})
        priced = made.under(engine).checking(draft_tokens)
        assert priced.iteration_seconds(decode) == made.checking(draft_tokens).iteration_seconds(decode)
        return priced.iteration_seconds(prompt)

    least = floor()
    assert floor(host_seconds_per_latent_layer=0.01) - least == pytest.approx(0.01 * LATENT.num_layers)
    assert floor(3, host_seconds_per_guess=0.1) - floor(3) == pytest.approx(0.3)
    captured = floor(captures_prompts=True, captured_launch_fraction=0.5)
    assert least - captured == pytest.approx(0.5e-3 * made.num_launches)
