"""A trace set beside the planner's figures: every difference is named, or it is a fault."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from planner.plan import Plan
from planner.work.kinds import HEAD
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob
from validate.trace.figures import LOSS, RECEIVED, Traced
from validate.trace.planned import FLOPS, MEMORY, MESSAGES, Figures, Key, passed_in_flight, planned
from validate.trace.ways import ways

ROUNDING = 1e-12
"""Relative difference that sums of floating-point numbers may show."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Part of a difference: traced over estimated."""

    amount: float
    words: str


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one rank, twice."""

    key: Key
    estimated: float
    traced: float
    reasons: tuple[Reason, ...]

    @property
    def unexplained(self) -> float:
        """What of the difference no reason names; 0 but for rounding."""
        rest = self.traced - self.estimated - sum(reason.amount for reason in self.reasons)
        return 0.0 if abs(rest) <= ROUNDING * max(abs(self.traced), abs(self.estimated)) else rest


def rows(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack) -> tuple[Row, ...]:
    """Every figure of a traced rank beside the planner's, with what explains the difference."""
    estimated = now = planned(plan, job, stack, traced.stage)
    reasons: dict[Key, list[Reason]] = {}
    for way in ways(job, plan, stack):
        stack = stack.model_copy(update={way.field: way.value})
        before, now = now, planned(plan, job, stack, traced.stage)
        for key in before | now:
            if change := now.get(key, 0.0) - before.get(key, 0.0):
                reasons.setdefault(key, []).append(Reason(change, f"{way.words} ({way.field})"))
    for key, reason in _extras(traced, job, plan):
        reasons.setdefault(key, []).append(reason)
    found = figures(traced)
    keys = sorted(estimated | now | found, key=lambda key: ((FLOPS, MESSAGES, MEMORY).index(key[0]), key[1:]))
    return tuple(Row(key, estimated.get(key, 0.0), found.get(key, 0.0), _merged(reasons.get(key, []))) for key in keys)


def _merged(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """One reason for each wording, those of nothing left out."""
    amounts: dict[str, float] = {}
    for reason in reasons:
        amounts[reason.words] = amounts.get(reason.words, 0.0) + reason.amount
    return tuple(Reason(amount, words) for words, amount in amounts.items() if amount)


def figures(traced: Traced) -> Figures:
    """The figures of a trace under the planner's names."""
    found: Counter[Key] = Counter()
    for (operation, phase), flops in traced.counts.flops.items():
        found[FLOPS, operation, phase] += flops  # type: ignore[assignment]
    for (axis, collective, _, _), sent in traced.counts.sent.items():
        found[MESSAGES, axis, collective] += sent.num_bytes  # type: ignore[assignment]
    for (place, made_by), size in traced.waiting.items():
        found[_waiting_key(place, made_by)] += size  # type: ignore[assignment]
    found[MEMORY, "parameters", ""] = traced.parameters_bytes  # type: ignore[assignment]
    found[MEMORY, "gradients", ""] = traced.gradients_bytes  # type: ignore[assignment]
    found[MEMORY, "optimizer", ""] = traced.optimizer_bytes  # type: ignore[assignment]
    return {key: value for key, value in found.items() if value}


def _extras(traced: Traced, job: TrainingJob, plan: Plan) -> Iterator[tuple[Key, Reason]]:
    """What torch does beside what is planned, told by where it happens and how large it is."""
    model = job.model
    assert isinstance(model, TransformerShape)
    for (axis, collective, place, elements), sent in traced.counts.sent.items():
        if (axis, collective, place) == ("tp", "all_reduce", LOSS):
            yield (MESSAGES, axis, collective), Reason(sent.num_bytes, "sums of one value a token in the sharded loss")
        elif (axis, collective, place) == ("tp", "all_reduce", "") and elements == model.hidden_size:
            yield (MESSAGES, axis, collective), Reason(sent.num_bytes, "gradients of norms, each summed over tp")
    for (place, made_by), size in traced.waiting.items():
        if words := _BESIDE.get((place if place in ("", LOSS, HEAD) else LAYER, made_by)):
            yield _waiting_key(place, made_by), Reason(size, words)
    yield from _passed_on(traced, job, plan)


def _waiting_key(place: str, made_by: str) -> Key:
    """The row of something that waits for the backward pass."""
    return MEMORY, "logits" if place == LOSS or (place, made_by) == (HEAD, _LOGITS) else "activations", ""


def _passed_on(traced: Traced, job: TrainingJob, plan: Plan) -> Iterator[tuple[Key, Reason]]:
    """What a pipeline of torch's keeps beside the activations of the microbatches in flight."""
    if plan.pp == 1:
        return
    assert isinstance(job.model, TransformerShape)
    width = DTYPE_BYTES[job.precision]
    tokens = job.sequence_length // plan.cp // (plan.tp if plan.sequence_parallel else 1)
    each = float(width * plan.micro_batch * tokens * job.model.hidden_size)
    num_inputs, num_outputs = passed_in_flight(plan, job, traced.stage)
    received = traced.waiting.get(RECEIVED, 0.0)
    key = (MEMORY, "activations", "")
    yield key, Reason(received - num_inputs * each, "buffers for the inputs of microbatches that are not in flight")
    yield key, Reason(num_outputs * each, "outputs of the stage, kept until their backward pass")


LAYER = "layer"
_LOGITS = "mm.default"
_BESIDE = {
    (LAYER, "native_layer_norm.default[1]"): "statistics that norms keep",
    (LAYER, "native_layer_norm.default[2]"): "statistics that norms keep",
    (HEAD, "native_layer_norm.default[1]"): "statistics that norms keep",
    (HEAD, "native_layer_norm.default[2]"): "statistics that norms keep",
    (LAYER, "new_empty.default"): "rotary tables, here one for every use",
    ("", "zeros.default"): "tokens of the batch",
    (HEAD, _LOGITS): "logits that the pipeline holds as its output",
    (LOSS, "to.device"): "the loss itself",
    (LOSS, "div.Tensor"): "the loss itself",
    (LOSS, "nll_loss_forward.default"): "the loss itself",
    (LOSS, "nll_loss_forward.default[1]"): "the loss itself",
}
"""What small or passing tensors are, by the layer and the operation that made them."""


def faults(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows whose difference is not fully explained."""
    return tuple(row for row in rows if row.unexplained)
