"""A row of a table of serving runs as what prices and simulator take: model, devices, split, engine, protocol.

Nothing here looks at a row's id or source: rows that say the same are modelled the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from planner.serving import Pool, ServingPlan
from profiles import catalog
from profiles.clocks import clock_fraction
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.model import TransformerShape
from validate.runs.resolve import Unmodelled
from validate.score.serving.protocol import INFERENCEMAX, Protocol, protocol_of
from validate.score.serving.recipes import completed
from validate.score.serving.scripts import AS_IS, Started, started
from validate.score.serving.table import ServedRow

_SUFFIXES = re.compile(r"[-_ ](?:instruct|chat|hf|fp8|nvfp4|fp4|bf16|awq|int4|dynamic|\d{4})\b.*$", re.IGNORECASE)
_RENAMED = {"llama v": "llama", "gptj": "gpt-j", "llama-v": "llama", "mistral 7b": "mistral-7b-v0.1"}
_GENERATIONS = (
    ("vllm(splitwise", "", "vllm-2023"),
    ("vllm", r"^$|^0\.(?:[6-9]|1[0-3])\b", "vllm-0.11"),
    ("vllm", "", "vllm"),
    ("sglang", "", "sglang"),
    ("nim-trtllm", "", "trtllm-0"),
    ("trtllm", r"^0\.(?:[0-6]|1[0-9])\b(?!\.\d+\.post)", "trtllm-0"),
    ("trtllm", r"^1\.0", "trtllm-1.0"),
    ("trtllm", r"^$|^1\.1(?!.*-dev)", "trtllm-1.1"),
    ("trtllm", "", "trtllm"),
)
"""Beginning of an engine's name, pattern of its release -> the engine record. Images of NVIDIA Dynamo, called
0.8 or 1.1.0-dev, run TensorRT-LLM 1.2 and later."""


@dataclass(frozen=True, slots=True)
class ServedSetting:
    """A row as the planner sees it."""

    row: ServedRow
    model: TransformerShape
    cluster: Cluster
    plan: ServingPlan
    engine: EngineRecord
    protocol: Protocol
    started: Started = AS_IS
    """How the benchmark's scripts started it; `engine` is so already."""

    @property
    def key(self) -> tuple[object, ...]:
        """Settings with the same key are the same run."""
        row = self.row
        load = (row.input_tokens, row.output_tokens, row.concurrency or row.batch)
        return (self.model.name, self.cluster.name, self.plan, self.engine.name, self.protocol, *load)

    @property
    def kind(self) -> str:
        """Dense models and mixtures of experts are told apart, and so are aggregated and disaggregated plans."""
        sparse = "sparse" if self.model.moe else "dense"
        return f"{sparse} disaggregated" if self.plan.prefill else sparse

    @property
    def plan_text(self) -> str:
        """The split in a few words."""
        pool = self.plan.decode
        degrees = (("tp", pool.tp), ("pp", pool.pp), ("ep", pool.ep), ("attention dp", pool.attention_dp))
        guesses = [f"{self.plan.draft_tokens} guessed"] if self.plan.draft_tokens else []
        written = [f"{name} {value}" for name, value in degrees if value > 1]
        return " ".join([*written, *guesses, self.plan.expert_weights])


def resolve_serving(row: ServedRow, own: EngineRecord | None = None) -> ServedSetting:
    """The setting of a row, under `own` in place of the record of its release.

    Raises Unmodelled with the reason when it says too little or too much.
    """
    if row.suspect:
        raise Unmodelled("marked suspect by the table")
    if not (row.input_tokens and row.output_tokens):
        raise Unmodelled("lengths are not stated")
    if row.input_tokens + row.output_tokens > _LONGEST or (row.concurrency or row.batch or 0) > _MOST_CLIENTS:
        raise Unmodelled(f"more than {_LONGEST:,} tokens a request or {_MOST_CLIENTS:,} requests at a time")
    model = model_of(row.model)
    engine = own or _engine(row, model)
    protocol = protocol_of(row)
    row = replace(row, split=_mesh(row.split), prefill_split=row.prefill_split and _mesh(row.prefill_split))
    if row.has_attention_dp and model.moe is not None:
        row = replace(row, split=_with_attention_dp(row.split))
    row, start = _as_benchmarked(row, model, protocol)
    engine = start.of(engine)
    pool, prefill = _pool(row, row.split, model, engine), None
    if budget := row.token_budget or start.token_budget:
        pool = replace(pool, token_budget=budget)
    elif protocol.kind == "offline" and not engine.chunks_prefill:
        # trtllm-bench sizes it by the requests: a whole prompt fits beside as many as run
        pool = replace(pool, token_budget=max(pool.token_budget, row.input_tokens + pool.max_sequences))
    if row.prefill_split is not None:
        if not (row.num_prefill_workers and row.num_decode_workers):
            raise Unmodelled("numbers of prefill and decode workers are not stated")
        slots = row.decode_slots or pool.max_sequences
        pool = replace(pool, replicas=row.num_decode_workers, max_sequences=slots)
        prefill = replace(_pool(row, row.prefill_split, model, engine), replicas=row.num_prefill_workers)
    cluster = _cluster(row.gpu, pool.num_devices // pool.replicas)
    # TensorRT-LLM's own tables are of checkpoints that ModelOpt made (docs/source/performance/perf-overview.md)
    per_tensor = protocol.kind == "offline" and engine.library == "trtllm"
    weights, experts = forms_of(row.weight_quant, model, cluster, per_tensor=per_tensor)
    plan = ServingPlan(
        decode=pool, prefill=prefill, weights=weights, expert_weights=experts,
        kv_dtype=_kv_dtype(row, engine, cluster), draft_tokens=row.draft_tokens or 0,
        acceptance_fraction=engine.acceptance_fraction if row.draft_tokens else 0.0,
    )  # fmt: skip
    return ServedSetting(row, model, cluster, plan, engine, protocol, start)


def _as_benchmarked(row: ServedRow, model: TransformerShape, protocol: Protocol) -> tuple[ServedRow, Started]:
    """`row` with what its benchmark's recipes say beside it, and how its scripts start the server."""
    if not protocol.benchmark:
        return row, AS_IS
    accelerator = _cluster(row.gpu, 1).accelerator.name
    if protocol is INFERENCEMAX:
        row = completed(row, model, accelerator)
    return row, started(row, model, accelerator, protocol.benchmark)


@lru_cache(maxsize=1024)
def model_of(name: str) -> TransformerShape:
    """A model by what tables call it; raises Unmodelled for one that the catalog does not have."""
    plain = name.casefold().rpartition("/")[2]
    for old, new in _RENAMED.items():
        plain = plain.replace(old, new)
    for written in (name, plain, _SUFFIXES.sub("", plain), _SUFFIXES.sub("", name)):
        if re.search(r"[\\/]|\.toml$|\.json$", written) and written != name:
            continue
        try:
            found = catalog.model(written)
        except ValueError:
            continue
        if isinstance(found, TransformerShape):
            return found
    raise Unmodelled(f"model {name} is not in the catalog")


def _engine(row: ServedRow, model: TransformerShape) -> EngineRecord:
    if row.engine == "sglang" and model.moe is not None and "inferencemax" in row.origin.casefold():
        # its recipes for mixtures of experts set scheduler-recv-interval; its first tables state no release
        return catalog.engine("sglang-polled" if row.engine_version else "sglang-2025")
    return engine_of(row.engine, row.engine_version)


def engine_of(engine: str, version: str) -> EngineRecord:
    """The record of a release; one that no pattern knows is as the latest. Raises Unmodelled for another engine."""
    for beginning, release, record in _GENERATIONS:
        if engine.startswith(beginning) and re.search(release, version):
            return catalog.engine(record)
    raise Unmodelled(f"engine {engine} is not described by an engine record")


def _mesh(split: Mapping[str, int]) -> dict[str, int]:
    """The degrees of one replica; tables that write products of degrees are undone (docs/serving.md)."""
    tp, pp, ep, dp, moe_tp = (split.get(name, 1) for name in ("tp", "pp", "ep", "dp", "moe_tp"))
    if ep > 1 and tp == dp and ep == tp * dp:  # both degrees given for one mesh of `tp` ranks
        ep, dp = tp, 1
    elif ep > 1 and ep == moe_tp and tp * dp == ep * moe_tp and (dp > 1 or tp > _LARGEST_NODE):
        tp, dp = (1, ep) if dp > 1 else (ep, 1)
    return {"tp": tp, "pp": pp, "ep": ep, "dp": dp}


def _with_attention_dp(split: Mapping[str, int]) -> dict[str, int]:
    """A mesh of tp ranks whose attention is data parallel: as many groups, over all of which experts are spread
    [NVIDIA/TensorRT-LLM docs, deployment guides: --tp_size N --ep_size N with enable_attention_dp]."""
    return {**split, "tp": 1, "dp": split["tp"] * split["dp"], "ep": split["tp"] * split["dp"]}


def _pool(row: ServedRow, split: Mapping[str, int], model: TransformerShape, engine: EngineRecord) -> Pool:
    """The ranks of one replica; as many requests at a time as clients send, or as the engine takes of each group."""
    tp, pp, ep, dp = (split[name] for name in ("tp", "pp", "ep", "dp"))
    if model.moe is None:
        ep = 1
    if ep > tp * dp or (tp * dp) % ep:
        raise Unmodelled(f"experts over {ep} of {tp * dp} ranks")
    budget, sequences = 8192, row.concurrency or row.batch or engine.max_sequences * dp
    return Pool(tp=tp, pp=pp, ep=ep, attention_dp=dp, token_budget=budget, max_sequences=max(sequences, 1))


_LARGEST_NODE = 8
_LONGEST, _MOST_CLIENTS = 2_000_000, 20_000
"""Beyond what anybody serves: a mistyped row, which would take forever to play."""


@lru_cache(maxsize=256)
def _cluster(gpu: str, num_devices: int) -> Cluster:
    capped = re.fullmatch(r"(.+)_(\d+)W_powercap", gpu)
    try:
        if capped:
            return _capped(catalog.cluster(capped[1], num_devices), float(capped[2]))
        return catalog.cluster(gpu, num_devices)
    except catalog.UnknownName:
        raise Unmodelled(f"accelerator {gpu} is not in the catalog") from None
    except ValueError:
        return catalog.cluster(capped[1] if capped else gpu)


def _capped(cluster: Cluster, power_watts: float) -> Cluster:
    """The same devices under a power limit: their clock falls where compute is what draws power, memory's does not."""
    device = cluster.accelerator
    share = clock_fraction(power_watts, device.power_watts or power_watts)
    peaks = {name: share * peak for name, peak in device.peak_flops_per_second.items()}
    limited = device.model_copy(update={"power_watts": power_watts, "peak_flops_per_second": peaks})
    return cluster.model_copy(update={"name": f"{cluster.name} at {power_watts:g} W", "accelerator": limited})


def forms_of(quant: str, model: TransformerShape, cluster: Cluster, *, per_tensor: bool = False) -> tuple[str, str]:
    """Forms of linear layers and of experts that a checkpoint called `quant` has.

    NVIDIA quantises to fp8 with one scale a tensor (`per_tensor`). Other publishers quantise mixtures of experts in
    blocks to fp8, and to four bits in the experts alone (attention, shared experts and routers are on the exclusion
    lists of their quantisation configs); gpt-oss ships its experts as MXFP4, which devices with fp4 units multiply with
    8-bit activations.
    """
    sparse = model.moe is not None
    has_fp4 = "fp4" in cluster.accelerator.peak_flops_per_second
    match quant.casefold():
        case "" | "bf16" | "fp16" | "float16" | "bfloat16":
            return "bf16", "bf16"
        case "fp8" if model.family == "gpt-oss":
            return "bf16", "w4a16_mxfp4"
        case "fp4" | "nvfp4" | "mxfp4" if model.family == "gpt-oss":
            return "bf16", "w4a8_mxfp4_mxfp8" if has_fp4 else "w4a16_mxfp4"
        case "fp8" | "fp8_block":
            form = "fp8_block" if (sparse and not per_tensor) or quant == "fp8_block" else "fp8"
            return form, form
        case "fp4" | "nvfp4":
            return ("bf16" if sparse else "nvfp4"), "nvfp4"
        case "int4" | "int4_wo":
            return ("bf16" if sparse else "int4_wo"), "int4_wo"
        case "int8_wo" | "sq":
            return quant, "bf16"
    raise Unmodelled(f"quantisation {quant} is not modelled")


def _kv_dtype(row: ServedRow, engine: EngineRecord, cluster: Cluster) -> str:
    """As stated; else as the engine's recipes choose it: 8 bits with 8-bit or smaller weights where its kernels for
    the device take them."""
    if row.kv_quant:
        return "fp8" if row.kv_quant.casefold() in ("fp8", "int8") else "bf16"
    quantised = row.weight_quant.casefold() in ("fp8", "fp4", "nvfp4", "fp8_block")
    has_fp4 = "fp4" in cluster.accelerator.peak_flops_per_second
    return "fp8" if quantised and (has_fp4 or engine.library == "trtllm") else "bf16"
