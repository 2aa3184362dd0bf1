"""One rank of a plan, for real: builds its share of the model, trains a few steps, and says how long they took.

`run_rank` takes and returns plain JSON values and finds its place from the environment that torchrun sets
(RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import contextlib
import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from profiles.model import TransformerShape
from validate.launch import STORE
from validate.measure import PeakMemory, Recorder, Usage, keep_freed_memory, return_freed_memory, settle_process
from validate.models import token_batch
from validate.parallel.context import token_positions
from validate.parallel.groups import Axis, Groups
from validate.parallel.traffic import Traffic
from validate.runnable import RunSpec, check_runnable
from validate.steps import Trainer, make_trainer

_JOINED = itertools.count()
"""Groups this process has joined: keys of one must not meet those of the next in torchrun's store."""


Report = Callable[[str], None]


def run_rank(values: dict[str, Any], report: Report = lambda phase: None) -> dict[str, Any]:
    """Train the steps that `values` (`RunSpec.to_json`) asks for and return this rank's figures.

    `report` is told the phase the rank enters. The result has `rank`, `coordinates`, `losses` (None but on the
    last stage), `steps` (`usage` and `spans` of each), `memory`, and `messages` if they are to be counted.
    Raises ValueError when the plan cannot be run, and what torch raises when a peer fails.
    """
    spec = RunSpec.from_json(values)
    check_runnable(spec.job, spec.plan)
    device = choose_device(spec.device)
    settle_process(device)
    (return_freed_memory if spec.measure_memory else keep_freed_memory)()
    report("joining the process group")
    join(device, spec.plan.num_ranks, spec.collective_timeout_seconds)
    try:
        return _train(spec, device, report)
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The device of this rank; raises ValueError when `name` is "cuda" and there are fewer GPUs than local ranks."""
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and available < local_size:
        raise ValueError(f"device: cuda needs a GPU for each of {local_size} local ranks, this host has {available}")
    if name == "cpu" or available < local_size:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def join(device: torch.device, num_ranks: int, timeout_seconds: float) -> None:
    """Enter the process group described by the environment, which must hold `num_ranks` ranks."""
    world = int(os.environ["WORLD_SIZE"])
    if world != num_ranks:
        raise ValueError(f"plan: it needs {num_ranks} ranks, but {world} were started")
    timeout = timedelta(seconds=timeout_seconds)
    if STORE in os.environ:
        store = dist.FileStore(os.environ[STORE], world)
    else:
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"group-{next(_JOINED)}", store),
        rank=int(os.environ["RANK"]),
        world_size=world,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )


def _train(spec: RunSpec, device: torch.device, report: Report) -> dict[str, Any]:
    groups = Groups(spec.plan, Recorder(device))
    memory = PeakMemory(device)
    losses, steps = [], []
    with memory.tracked() if spec.measure_memory else contextlib.nullcontext():
        report("building the model")
        trainer = make_trainer(spec.job, groups, spec.seed)
        batches = _Batches(spec, groups)
        for index in range(spec.num_warmup + spec.num_steps):
            if index == spec.num_warmup:
                memory.restart()
            report(f"step {index + 1} of {spec.num_warmup + spec.num_steps}")
            inputs, targets = batches.draw(index)
            step, loss = timed_step(trainer, inputs, targets, device)
            losses.append(loss)
            if index >= spec.num_warmup:
                steps.append(step)
    peak = memory.read()
    return {
        "rank": dist.get_rank(),
        "coordinates": groups.coordinates,
        "device": device.type,
        "losses": _mean_over_dp(losses, groups["dp"]),
        "steps": steps,
        "memory": peak,
        "num_parameters": trainer.num_parameters,
        "messages": _count_messages(trainer, groups, batches) if spec.count_messages else [],
    }


def _count_messages(trainer: Trainer, groups: Groups, batches: "_Batches") -> list[dict[str, Any]]:
    """What this rank sends in one more step, which is neither timed nor part of the losses.

    `padding_bytes` are those of `num_bytes` that only make shards equal.
    """
    traffic = Traffic(groups)
    groups.padding.clear()
    inputs, targets = batches.draw(0)
    with traffic:
        trainer.step(inputs, targets)
    return [
        {
            "axis": axis,
            "collective": collective,
            "num_messages": count,
            "num_bytes": size,
            "padding_bytes": groups.padding[axis, collective],
        }
        for (axis, collective), (count, size) in sorted(traffic.sent.items())
    ]


class _Batches:
    """This rank's share of the global batch of each step."""

    def __init__(self, spec: RunSpec, groups: Groups) -> None:
        self.spec, self.device, self.rank = spec, groups.recorder.device, groups.coordinates["dp"]
        self.positions = token_positions(spec.plan, spec.job.sequence_length, groups).cpu()

    def draw(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of step `index`, each (global_batch / dp, T / cp)."""
        job = self.spec.job
        assert isinstance(job.model, TransformerShape)
        inputs, targets = token_batch(job.model, job.global_batch, job.sequence_length, self.spec.seed + index)
        share = job.global_batch // self.spec.plan.dp
        mine = slice(self.rank * share, (self.rank + 1) * share)
        return tuple(tokens[mine][:, self.positions].to(self.device) for tokens in (inputs, targets))


def timed_step(
    trainer: Trainer, inputs: torch.Tensor, targets: torch.Tensor, device: torch.device
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """One optimizer step behind a barrier: what it used (`Usage`), and its spans."""
    dist.barrier()
    before = Usage.now()
    trainer.recorder.start()
    loss = trainer.step(inputs, targets)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"usage": before.until(Usage.now()), "spans": trainer.recorder.read()}, loss


def _mean_over_dp(losses: list[torch.Tensor | None], axis: Axis) -> list[float] | None:
    """Loss of each step over the global batch; None on ranks that hold no head."""
    present = [loss for loss in losses if loss is not None]
    if not present:
        return None
    stacked = torch.stack(present).float()
    if axis.size > 1:
        dist.all_reduce(stacked, group=axis.group)
    return [float(value) for value in stacked / axis.size]
