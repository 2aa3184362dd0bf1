"""The naive estimate beside every prediction of a serving run: datasheet rates, no overhead, no queue."""

from planner.cost.kv import weight_bytes
from planner.cost.serving import served_shard
from planner.work.forms import form_of
from profiles.parameters import num_active_parameters, num_parameters
from validate.score.serving.play import ServedFigures
from validate.score.serving.resolve import ServedSetting


def roofline_figures(setting: ServedSetting) -> ServedFigures:
    """TTFT = 2 N I / peak; TPOT = max(weights / bandwidth, 2 N c / peak); the rest follows [Williams 2009,
    doi:10.1145/1498765.1498785; Pope 2022, arXiv:2211.05102, section 3.1].

    N are the parameters a token meets, I the prompt, c the requests at a time. Of a mixture of experts the weights that
    one token meets are read.
    """
    row, plan, pool = setting.row, setting.plan, setting.plan.decode
    ranks = pool.tp * pool.attention_dp * pool.pp
    device = setting.cluster.accelerator
    dtype = form_of(plan.expert_weights if setting.model.moe else plan.weights).dtype
    known = device.peak_flops_per_second
    peak = ranks * device.flops_per_second(dtype if dtype in known else "bf16")
    active = num_active_parameters(setting.model)
    share = active / num_parameters(setting.model)
    at_once = float(row.concurrency or row.batch or 1)
    ttft = 2.0 * active * row.input_tokens / peak
    read = (
        share * weight_bytes(setting.model, served_shard(plan, pool, setting.engine)) / device.memory_bytes_per_second
    )
    tpot = max(read, 2.0 * active * at_once / peak)
    e2e = ttft + tpot * (row.output_tokens - 1)
    rate = at_once * row.output_tokens / e2e if row.concurrency or row.batch else None
    return ServedFigures(ttft, tpot, e2e, rate)
