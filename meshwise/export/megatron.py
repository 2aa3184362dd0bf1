"""Arguments of Megatron-LM's pretrain_gpt.py, as a shell array to be sourced.

Names: NVIDIA/Megatron-LM, megatron/training/arguments.py and the dataclasses it makes arguments of
(TransformerConfig, ModelParallelConfig, TrainingConfig, DistributedInitConfig), as of the release below.
"""

from itertools import groupby

from meshwise.export.registry import Exported, refuse, target
from meshwise.jobfile import Question
from planner.layout import written
from planner.order import USUAL_ORDER
from planner.plan import Plan, Recompute
from planner.work.layers import num_blocks
from profiles.model import LatentAttention, LayerList, MixtureOfExperts, TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

RELEASE = "core_v0.19.0 (5be9626)"
NAME = "megatron"
_FIELDS = (
    "dp", "tp", "pp", "cp", "ep", "etp", "cp_a2a", "cp_gather", "vp", "layout", "micro_batch", "schedule",
    "recompute", "recompute_modules", "recompute_layers", "sequence_parallel", "zero_stage", "dp_replicate",
    "order",
)  # fmt: skip
_PRECISION = {
    "fp32": (), "bf16": ("--bf16",), "fp16": ("--fp16",), "fp8": ("--bf16", "--fp8-format hybrid"),
    "mxfp8": ("--bf16", "--fp8-format e4m3", "--fp8-recipe mxfp8"), "nvfp4": ("--bf16", "--fp4-format e2m1"),
}  # fmt: skip
_ORDERS = {USUAL_ORDER: (), "tp-cp-pp-dp": ("--use-tp-pp-dp-mapping",)}
_SHARDING = {2: "optim_grads", 3: "optim_grads_params"}

Arguments = list[str]


@target(NAME, release=RELEASE, ending=".sh", fields=_FIELDS, exchange=("bucket_bytes",))
def write(plan: Plan, question: Question) -> Exported:
    """The model, the batch and the split as arguments."""
    job, model = question.job, question.job.model
    if isinstance(model, LayerList) or not model.causal or model.num_encoder_layers:
        refuse(NAME, f"(pretrain_gpt.py) trains decoder-only language models, which {model.name} is not")
    if job.precision not in _PRECISION:
        refuse(NAME, f"is written for {', '.join(_PRECISION)} here, not {job.precision}")
    groups = {
        "model": _model(model),
        "experts": _experts(model, plan, question.stack),
        "batch and precision": _batch(job, plan),
        "split": [*_split(plan, model), *_context(plan), *_pipeline(plan, model)],
        "sharding and overlap": _sharding(plan, question),
        "recomputation": _recompute(plan),
    }
    lines = [
        f"# {model.name} on {plan.num_ranks} devices: {plan}",
        f"# Arguments of pretrain_gpt.py, Megatron-LM {RELEASE}. Source this file, then:",
        f'#   torchrun ... pretrain_gpt.py "${{MEGATRON_ARGS[@]}}" ...   ({plan.num_ranks} processes)',
        "MEGATRON_ARGS=(",
    ]
    for title, arguments in groups.items():
        if arguments:
            lines += [f"  # {title}", *(f"  {argument}" for argument in arguments)]
    return Exported("\n".join([*lines, ")"]) + "\n", _notes(plan, model))


def _model(model: TransformerShape) -> Arguments:
    if model.norms_per_layer != 2:
        refuse(NAME, f"has two norms a layer, but {model.name} has {model.norms_per_layer}")
    if model.linear_bias and not model.qkv_bias:
        refuse(NAME, f"has no model with biases on all linear layers but query, key and value, as {model.name} has")
    arguments = [
        f"--num-layers {model.num_layers}",
        f"--hidden-size {model.hidden_size}",
        f"--ffn-hidden-size {model.ffn_size}",
        f"--num-attention-heads {model.num_heads}",
        f"--normalization {'RMSNorm' if model.norm == 'rms_norm' else 'LayerNorm'}",
        f"--position-embedding-type {'learned_absolute' if model.num_learned_positions else 'rope'}",
    ]
    if model.mla:
        arguments += _latent_attention(model.mla)
    else:
        arguments += [f"--kv-channels {model.head_dim}"]
        if model.num_kv_heads != model.num_heads:
            arguments += ["--group-query-attention", f"--num-query-groups {model.num_kv_heads}"]
    switches = {
        "--swiglu": model.gated_ffn,
        "--disable-bias-linear": not model.linear_bias,
        "--add-qkv-bias": model.qkv_bias and not model.linear_bias,
        "--qk-layernorm": model.qk_norm,
        "--untie-embeddings-and-output-weights": not model.tied_embeddings,
    }
    further = [f"--mtp-num-layers {model.num_mtp_modules}"] if model.num_mtp_modules else []
    return [*arguments, *(name for name, wanted in switches.items() if wanted), *further]


def _latent_attention(mla: LatentAttention) -> Arguments:
    queries = [f"--q-lora-rank {mla.q_lora_rank}"] if mla.q_lora_rank else []
    return [
        "--multi-latent-attention",
        *queries,
        f"--kv-lora-rank {mla.kv_lora_rank}",
        f"--qk-head-dim {mla.qk_nope_head_dim}",
        f"--qk-pos-emb-head-dim {mla.qk_rope_head_dim}",
        f"--v-head-dim {mla.v_head_dim}",
    ]


_DISPATCHERS = {
    "all_to_all": ("--moe-token-dispatcher-type alltoall",),
    "fused": ("--moe-token-dispatcher-type flex", "--moe-flex-dispatcher-backend hybridep"),
    "deepep": ("--moe-token-dispatcher-type flex", "--moe-flex-dispatcher-backend deepep"),
}


def _experts(model: TransformerShape, plan: Plan, stack: SoftwareStack) -> Arguments:
    moe: MixtureOfExperts | None = model.moe
    if moe is None:
        return []
    if plan.tp > 1 and not plan.sequence_parallel:
        refuse(NAME, "trains experts beside tensor parallelism only with sequence_parallel; set it")
    runs = [(int(sparse), len(list(run))) for sparse, run in groupby(model.is_sparse_layer)]
    pattern = "+".join(f"[{sparse}]*{count}" for sparse, count in runs)
    arguments = [
        f"--num-experts {moe.num_experts}",
        f"--moe-router-topk {moe.top_k}",
        f"--moe-ffn-hidden-size {moe.expert_ffn_size}",
        f"--moe-layer-freq '({pattern})'",
        "--moe-grouped-gemm",
        *_DISPATCHERS[stack.expert_dispatch],
        f"--expert-model-parallel-size {plan.ep}",
        f"--expert-tensor-parallel-size {plan.etp}",
    ]
    if moe.num_groups > 1:
        arguments += [f"--moe-router-num-groups {moe.num_groups}", f"--moe-router-group-topk {moe.num_chosen_groups}"]
    if moe.shared_width:
        arguments.append(f"--moe-shared-expert-intermediate-size {moe.shared_width}")
    return arguments


def _batch(job: TrainingJob, plan: Plan) -> Arguments:
    return [
        f"--micro-batch-size {plan.micro_batch}",
        f"--global-batch-size {job.global_batch}",
        f"--seq-length {job.sequence_length}",
        f"--max-position-embeddings {job.sequence_length}",
        *_PRECISION[job.precision],
        f"--optimizer {job.optimizer}",
    ]


def _split(plan: Plan, model: TransformerShape) -> Arguments:
    if model.sliding_window:
        refuse(NAME, f"is not written for sliding windows, as those of {model.name}")
    if plan.order not in _ORDERS:
        refuse(NAME, f"numbers ranks in the order {' or '.join(_ORDERS)}, not {plan.order}")
    if model.moe and plan.order != USUAL_ORDER and plan.pp > 1 and plan.etp * plan.ep != plan.tp * plan.cp:
        refuse(NAME, f"needs etp*ep = tp*cp under the order {plan.order}, got {plan.etp * plan.ep}")
    return [
        *_ORDERS[plan.order],
        f"--tensor-model-parallel-size {plan.tp}",
        f"--pipeline-model-parallel-size {plan.pp}",
        f"--context-parallel-size {plan.cp}",
        *(["--sequence-parallel"] if plan.sequence_parallel else []),
    ]


def _context(plan: Plan) -> Arguments:
    if plan.cp == 1:
        return []
    if plan.cp_gather:
        if plan.cp_a2a > 1:
            refuse(NAME, "either gathers keys or trades heads by all-to-all; use cp_gather or cp_a2a alone")
        return ["--cp-comm-type allgather"]
    if plan.cp_a2a == 1:
        return ["--cp-comm-type p2p"]
    if plan.cp_a2a == plan.cp:
        return ["--cp-comm-type a2a"]
    return [
        "--cp-comm-type a2a+p2p",
        f"--hierarchical-context-parallel-sizes {plan.cp_a2a} {plan.cp // plan.cp_a2a}",
    ]


def _pipeline(plan: Plan, model: TransformerShape) -> Arguments:
    """Virtual stages, and embedding and head counted as layers where that makes the stages even."""
    if plan.schedule not in ("1f1b", "interleaved"):
        refuse(NAME, f"runs the schedules 1f1b and interleaved, not {plan.schedule}")
    if plan.layout:
        layout = written(plan.layout).removesuffix("L") + "m" * model.num_mtp_modules + "L"
        return [f"--pipeline-model-parallel-layout '{layout}'"]
    chunks, blocks = plan.pp * plan.vp, num_blocks(model)
    ends = blocks % chunks != 0
    if ends and (blocks + 2) % chunks:
        refuse(NAME, f"deals layers out evenly, and pp*vp={chunks} divides neither {blocks} nor {blocks + 2} layers")
    virtual = [f"--num-virtual-stages-per-pipeline-rank {plan.vp}"] if plan.vp > 1 else []
    counted = ["--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"]
    return [*virtual, *(counted if ends else [])]


def _sharding(plan: Plan, question: Question) -> Arguments:
    if plan.dp * plan.cp == 1:
        return []
    overlap = question.stack.dp_overlap
    arguments = ["--overlap-grad-reduce"] if overlap else []
    if bucket_bytes := question.job.exchange.bucket_bytes:
        if plan.zero_stage >= 2:
            refuse(NAME, f"reduces gradients layer by layer under zero_stage={plan.zero_stage}; leave bucket_mib out")
        arguments.append(f"--ddp-bucket-size {round(bucket_bytes / question.stack.gradient_bytes)}")
    if plan.zero_stage == 0:
        return arguments
    arguments += ["--use-distributed-optimizer", *(["--overlap-param-gather"] if overlap else [])]
    if plan.zero_stage >= 2:
        arguments += [
            "--use-megatron-fsdp",
            f"--data-parallel-sharding-strategy {_SHARDING[plan.zero_stage]}",
            "--ckpt-format fsdp_dtensor",
        ]
    if plan.dp_replicate > 1:
        arguments.append(f"--num-distributed-optimizer-instances {plan.dp_replicate}")
    return arguments


def _recompute(plan: Plan) -> Arguments:
    if plan.recompute is Recompute.OPERATORS:
        refuse(NAME, "has no setting for recompute=operators; use none, selective or full")
    if plan.recompute is Recompute.SELECTIVE:
        modules = plan.recompute_modules.words.replace(",", " ")
        return ["--recompute-granularity selective", f"--recompute-modules {modules}"]
    if plan.recompute is Recompute.FULL:
        layers = plan.recompute_layers
        method = [f"--recompute-method {'block' if layers else 'uniform'}", f"--recompute-num-layers {layers or 1}"]
        return ["--recompute-granularity full", *method]
    return []


def _notes(plan: Plan, model: TransformerShape) -> tuple[str, ...]:
    notes = ["data, tokenizer, learning rate and checkpoints are left to you"]
    if model.gated_ffn:
        notes.append("--swiglu gates with SiLU; a model that gates with GELU needs its own switch")
    if plan.tp > 1 and plan.zero_stage < 2:
        notes.append("before Blackwell, tensor parallelism overlaps best with CUDA_DEVICE_MAX_CONNECTIONS=1")
    if plan.zero_stage >= 2:
        notes.append("Megatron-FSDP refuses CUDA_DEVICE_MAX_CONNECTIONS=1; leave it unset")
    return tuple(notes)
