"""The split of a run whose framework has no gradient accumulation, from what its source does state."""

from dataclasses import replace

from validate.runs.table import Run


def with_whole_batch(run: Run, *, shards: bool) -> Run:
    """`run` with its data-parallel degree and microbatch filled in where nothing else is possible.

    Without a pipeline or accumulation, a rank runs its share of the batch at once, and the devices that tensor and
    context parallelism leave are data parallel. A run without any stated split stays so unless it is on one device
    or shards its parameters over all of them, as it says or as its framework does by default (`shards`).
    """
    tp, pp, cp = run.tp, run.pp, run.cp or 1
    if run.num_accelerators == 1 or run.zero_stage_or_fsdp or shards:
        tp, pp = tp or 1, pp or 1
    if not (tp and pp and run.num_accelerators):
        return run
    dp, rest = divmod(run.num_accelerators, tp * pp * cp)
    dp = run.dp or (0 if rest else dp)
    share, over = divmod(run.global_batch_seqs or 0, dp or 1)
    micro_batch = run.micro_batch_seqs or (share if pp == 1 and not over else None)
    return replace(run, tp=tp, pp=pp, dp=dp or None, micro_batch_seqs=micro_batch or None)
