"""What torch does beside what is planned, each with its reason and its amount."""

from collections.abc import Iterator

from planner.cost.inventory import Item, inventory
from planner.plan import Plan
from planner.recompute import Recompute
from planner.work.kinds import EMBEDDING, HEAD, recomputed_fraction
from planner.work.layers import layer_work
from planner.work.lower import lower
from planner.work.ops import Message
from planner.work.program import Kind, StepProgram, Work, layer_messages
from planner.work.sharding import KEPT_GATHERED, gathers_in_backward
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob
from validate.reasons import Reason
from validate.trace.figures import LOSS, RECEIVED, Traced
from validate.trace.planned import MEMORY, MESSAGES, Figures, Key, chunk_layers, held_at_peak, waiting_logits

_ACTIVATIONS: Key = (MEMORY, "activations", "")
_LOGITS: Key = (MEMORY, "logits", "")


Found = Iterator[tuple[Key, Reason]]


def beside(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack, planned: Figures) -> Found:
    """Every reason that holds of a traced rank; `planned` are its figures under `stack`, which does as torch does."""
    program = lower(plan, job, stack)
    yield from _sums(traced, job, plan, stack, program)
    yield from _small(traced)
    yield from _in_flight(traced, job, plan, stack, program)
    yield from _passed_on(traced, job, plan, program)
    yield from _padding(traced, job, plan, stack, program, planned)
    yield from _still_gathered(traced, plan, program)
    yield from _packed(traced, job, plan, stack)
    yield from _weighted(traced, job, plan, stack)
    yield from _exchanged_again(traced, job, plan, program)


def waiting_key(place: str, made_by: str) -> Key:
    """The row of something that waits for the backward pass."""
    return _LOGITS if place == LOSS or (place, made_by) == (HEAD, _PRODUCT) else _ACTIVATIONS


def _sums(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack, program: StepProgram) -> Found:
    """Small sums over tp: those of torch's sharded loss beside those planned, and of norms."""
    model, key = job.model, (MESSAGES, "tp", "all_reduce")
    assert isinstance(model, TransformerShape)
    in_loss = 0.0
    for (axis, collective, place, elements), sent in traced.counts.sent.items():
        if (axis, collective, place) == ("tp", "all_reduce", LOSS):
            in_loss += sent.num_bytes
        elif (axis, collective, place) == ("tp", "all_reduce", "") and elements == model.hidden_size:
            yield key, Reason(sent.num_bytes, "gradients of norms, each summed over tp")
    layers = chunk_layers(program, job)
    if plan.tp > 1 and any(HEAD in layers[chunk] for chunk in {action.chunk for action in program.ranks[traced.stage]}):
        ops = layer_work(job, HEAD, plan, stack).forward.ops
        sums = [count * op.num_bytes for op, count in ops if isinstance(op, Message) and op.collective == "all_reduce"]
        planned = plan.num_microbatches(job.global_batch) * float(sum(sums))
        yield key, Reason(in_loss - planned, "sums of one value a token in the sharded loss, beside those planned")


def _small(traced: Traced) -> Found:
    """Tensors that wait and that no plan lists, all of them small or passing."""
    for (place, made_by), size in traced.waiting.items():
        if words := _BESIDE.get((place if place in ("", LOSS, HEAD) else _LAYER, made_by)):
            yield waiting_key(place, made_by), Reason(size, words)


def _in_flight(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack, program: StepProgram) -> Found:
    """Chunks of a rank hold different numbers of microbatches at its peak; the estimate takes their mean."""
    held = held_at_peak(program, job, traced.stage, _boundary_bytes(job, plan))
    mean = sum(held.values()) / len(held)
    words = "chunks hold different numbers of microbatches; the estimate takes their mean"
    amount = sum((count - mean) * program.activation_bytes[chunk] for chunk, count in held.items())
    yield _ACTIVATIONS, Reason(amount, words)
    layers = chunk_layers(program, job)
    head = sum(count - mean for chunk, count in held.items() if HEAD in layers[chunk])
    yield _LOGITS, Reason(head * waiting_logits(plan, job, stack, traced.stage), words)


def _passed_on(traced: Traced, job: TrainingJob, plan: Plan, program: StepProgram) -> Found:
    """What a pipeline of torch's keeps beside the activations of the microbatches in flight."""
    if plan.pp == 1:
        return
    each = _boundary_bytes(job, plan)
    held, layers = held_at_peak(program, job, traced.stage, each), chunk_layers(program, job)
    num_inputs = sum(count for chunk, count in held.items() if EMBEDDING not in layers[chunk])
    num_outputs = sum(count for chunk, count in held.items() if HEAD not in layers[chunk])
    unused = traced.waiting.get(RECEIVED, 0.0) - num_inputs * each
    yield _ACTIVATIONS, Reason(unused, "buffers for the inputs of microbatches that are not in flight")
    yield _ACTIVATIONS, Reason(num_outputs * each, "outputs of the stage, kept until their backward pass")


def _boundary_bytes(job: TrainingJob, plan: Plan) -> float:
    """Bytes of what a chunk hands to the next, on one rank."""
    assert isinstance(job.model, TransformerShape)
    tokens = job.sequence_length // plan.cp // (plan.tp if plan.sequence_parallel else 1)
    return float(DTYPE_BYTES[job.precision] * plan.micro_batch * tokens * job.model.hidden_size)


def _padding(
    traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack, program: StepProgram, planned: Figures
) -> Found:
    """Shards are equal: FSDP2 pads the first dimension of every parameter to them, a flat buffer its end."""
    sizes = traced.sizes
    if not plan.zero_stage or not any(sizes.padding.values()):
        return
    is_fully = plan.zero_stage == 3
    words = "FSDP2 pads the first dimension of every parameter to equal shards"
    if not is_fully:
        words = "the buffer of gradients is padded to equal shards"
    shares = {"optimizer": sizes.held_share}
    if is_fully:
        shares["parameters"] = sizes.held_share
    if not is_fully or plan.pp == 1:
        shares["gradients"] = sizes.held_share if is_fully else sizes.whole_share
    for part, share in shares.items():
        yield (MEMORY, part, ""), Reason(share * planned.get((MEMORY, part, ""), 0.0), words)
    for action in program.ranks[traced.stage]:
        works = [("", program.work.get((action.kind, action.chunk), Work()))]
        works += [(layer, program.layer_work[kind, layer]) for kind, layer in layer_messages(program, action)]
        for layer, work in works:
            for op, count in work.ops:
                if isinstance(op, Message) and op.axis in ("dp-shard", "edp-shard", "dp-replicate"):
                    share = sizes.share(layer, "edp" if op.axis == "edp-shard" else "dp")
                    yield (MESSAGES, op.axis, op.collective), Reason(share * float(count * op.num_bytes), words)


def _still_gathered(traced: Traced, plan: Plan, program: StepProgram) -> Found:
    """Under a pipeline torch frees no gathered parameters after a backward pass but the last: the next pass has them.

    Embedding and head are not freed after a forward pass either.
    """
    if plan.pp == 1 or not gathers_in_backward(plan):
        return
    words = "torch still has the parameters from the pass before, under a pipeline"
    before: dict[int, Kind] = {}
    for action in program.ranks[traced.stage]:
        for kind, layer in layer_messages(program, action):
            last = before.get(action.chunk)
            if kind is not Kind.REDUCE_GRADIENTS and (last is Kind.BACKWARD or (last and layer in KEPT_GATHERED)):
                for op, count in program.layer_work[kind, layer].ops:
                    assert isinstance(op, Message)
                    yield (MESSAGES, op.axis, op.collective), Reason(-float(count * op.num_bytes), words)
        if action.kind in (Kind.FORWARD, Kind.BACKWARD):
            before[action.chunk] = action.kind


def _packed(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack) -> Found:
    """Queries of a ring behind an exchange of heads are part of the packed tensor that keys and values came in."""
    if plan.cp_a2a == 1 or plan.cp == plan.cp_a2a:
        return
    kept = sum(item.num_bytes for item in _waiting(traced, job, plan, stack) if item.name in ("keys", "values"))
    yield _ACTIVATIONS, Reason(kept, "keys and values, kept again in the packed exchange of heads")


def _exchanged_again(traced: Traced, job: TrainingJob, plan: Plan, program: StepProgram) -> Found:
    """Recomputation runs on to what experts return, which the gradient of their weights needs."""
    if plan.recompute != Recompute.FULL or plan.ep == 1:
        return
    words = "the way back from experts, run again for the gradient of their weights"
    share = 0.5 * recomputed_fraction(job.model, plan)
    for action in program.ranks[traced.stage]:
        if action.kind is Kind.FORWARD:
            for op, count in program.work[action.kind, action.chunk].ops:
                if isinstance(op, Message) and op.axis == "ep":
                    yield (MESSAGES, "ep", op.collective), Reason(share * float(count * op.num_bytes), words)


def _weighted(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack) -> Found:
    """Eager torch weights what experts return in a product of its own; Megatron's kernels do so as they combine."""
    rows = sum(item.num_bytes for item in _waiting(traced, job, plan, stack) if item.name == "expert input")
    if rows and plan.recompute != Recompute.FULL:
        yield _ACTIVATIONS, Reason(2.0 * rows, "outputs of experts, before and after they are weighted")


def _waiting(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack) -> list[Item]:
    return [item for item in inventory(plan, job, stack, traced.stage) if item.part == "activations"]


_LAYER = "layer"
_PRODUCT = "mm.default"
_BESIDE = {
    (_LAYER, "native_layer_norm.default[1]"): "statistics that norms keep",
    (_LAYER, "native_layer_norm.default[2]"): "statistics that norms keep",
    (HEAD, "native_layer_norm.default[1]"): "statistics that norms keep",
    (HEAD, "native_layer_norm.default[2]"): "statistics that norms keep",
    (_LAYER, "new_empty.default"): "rotary tables, here one for every use",
    (_LAYER, "_softmax.default"): "what routing computed",
    (_LAYER, "gather.default"): "what routing computed",
    (_LAYER, "topk.default"): "what routing computed",
    (_LAYER, "topk.default[1]"): "what routing computed",
    (_LAYER, "sort.stable"): "what routing computed",
    (_LAYER, "sort.stable[1]"): "what routing computed",
    (_LAYER, "floor_divide.default"): "what routing computed",
    (_LAYER, "sum.dim_IntList"): "what routing computed",
    (_LAYER, "div.Tensor"): "what routing computed",
    ("", "zeros.default"): "tokens of the batch",
    (HEAD, _PRODUCT): "logits that the pipeline holds as its output",
    (LOSS, "to.device"): "the loss itself",
    (LOSS, "div.Tensor"): "the loss itself",
    (LOSS, "nll_loss_forward.default"): "the loss itself",
    (LOSS, "nll_loss_forward.default[1]"): "the loss itself",
}
"""What small or passing tensors are, by the layer and the operation that made them."""
