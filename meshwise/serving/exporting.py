"""A serving job as the commands that start its servers: `vllm serve`, SGLang's launcher, `trtllm-serve`.

Names of options: vllm-project/vllm vllm/engine/arg_utils.py, sgl-project/sglang python/sglang/srt/server_args.py and
NVIDIA/TensorRT-LLM tensorrt_llm/commands/serve.py, as of the releases below.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshwise.export.registry import CannotExpress, Exported
from meshwise.serving import playing
from meshwise.serving.jobfile import ServingFile
from meshwise.serving.traffic import traffic
from planner.cost.serving import PriceBook
from planner.serving import Pool, ServingPlan
from profiles import catalog
from profiles.engine import EngineRecord
from profiles.model import LayerList, TransformerShape

_ONLINE = ("fp8",)
"""Forms that vLLM and SGLang make of a 16-bit checkpoint while they load it."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is to be started."""

    model: TransformerShape
    plan: ServingPlan
    engine: EngineRecord
    longest_request_tokens: int
    variant: str = ""
    """Of the model, by its name."""

    @property
    def checkpoint(self) -> str:
        """The model's repository, as far as the catalog knows it."""
        return _repository(self.model)

    @property
    def draft_checkpoint(self) -> str:
        """That of the model that guesses; "" where its own heads do."""
        return _repository(catalog.model(self.plan.draft_model)) if self.plan.draft_model else ""

    def guesses_in(self, pool: str) -> bool:
        """Whether tokens are guessed ahead there."""
        return self.plan.draft_tokens > 0 and pool != "prefill"

    @property
    def pools(self) -> tuple[tuple[str, Pool], ...]:
        """Name and pool, in the order a request passes through them."""
        if self.plan.prefill is None:
            return (("all work", self.plan.decode),)
        return (("prefill", self.plan.prefill), ("decode", self.plan.decode))


def _repository(model: TransformerShape | LayerList) -> str:
    return next((alias for alias in model.aliases if "/" in alias), model.name)


Options = list[str]
Write = Callable[[Deployed, str, Pool], Options]


@dataclass(frozen=True, slots=True)
class ServingTarget:
    """An engine's launcher."""

    name: str
    release: str
    write: Write


def deployed(file: ServingFile) -> Deployed:
    """What a job of one model starts; raises ValueError for several."""
    if len(file.serving) != 1:
        raise ValueError("serving: one model is exported at a time; give each a file of its own")
    book = PriceBook()
    served = playing.served_of(file.serving[0], file.job.cluster, book)
    requests = traffic(file.load, file.load.seed, needs_times=False)
    longest = int((requests.input_tokens + requests.output_tokens).max())
    longest = min(longest, served.model.max_sequence_length)
    return Deployed(served.model, served.plan, served.engine, longest, file.serving[0].variant or "")


def export_serving(deployed: Deployed, to: str) -> Exported:
    """One command a pool, as a shell script.

    Raises ValueError for an unknown engine, and CannotExpress for what one lacks.
    """
    if to not in SERVING_TARGETS:
        raise ValueError(f"to: {to!r} serves no models; serving jobs are exported to {', '.join(SERVING_TARGETS)}")
    target = SERVING_TARGETS[to]
    lines = []
    for name, pool in deployed.pools:
        replicas = f"{pool.replicas} replica{'s' if pool.replicas > 1 else ''}"
        devices = pool.num_devices // pool.replicas
        where = f" of {pool.cluster}" if pool.cluster else ""
        lines += [f"# {name}: {replicas}, each on {devices} device{'s' if devices > 1 else ''}{where}"]
        lines += [_joined(target.write(deployed, name, pool))]
    return Exported("#!/bin/sh\n" + "\n".join(lines) + "\n", _notes(deployed, target))


def _joined(options: Options) -> str:
    """One option a line."""
    words = [option if option == _INTO else shlex.quote(option) for option in options]
    lines, current = [], words[0]
    for word in words[1:]:
        if word.startswith("--"):
            lines.append(current)
            current = "    " + word
        else:
            current += " " + word
    return " \\\n".join([*lines, current])


def _notes(deployed: Deployed, target: ServingTarget) -> tuple[str, ...]:
    notes = []
    plan = deployed.plan
    if deployed.engine.library != target.name:
        notes.append(f"the plan was priced as {deployed.engine.name} runs it")
    if plan.weights not in ("bf16", "fp16") and (plan.weights not in _ONLINE or target.name == "trtllm"):
        notes.append(f"name a checkpoint whose weights are {plan.weights}; this one is the 16-bit original")
    if deployed.variant:
        notes.append(f"name the checkpoint of the variant, {deployed.variant}; its repository is not known")
    if any(pool.device_fraction < 1.0 for _, pool in deployed.pools):
        notes.append("give each server its share of the devices' time by partitions (MIG) or by time slices")
    if any(pool.replicas > 1 for _, pool in deployed.pools) or plan.prefill:
        notes.append("start a replica on each set of devices, with ports of their own, and a router in front")
    return tuple(notes)


def _vllm(deployed: Deployed, name: str, pool: Pool) -> Options:
    """`vllm serve`: data-parallel ranks are the groups of attention; experts are spread over all ranks or over none."""
    ranks = pool.tp * pool.attention_dp
    if pool.ep not in (1, ranks):
        raise CannotExpress(f"vllm spreads experts over all {ranks} ranks of a replica or over none, not ep={pool.ep}")
    options = ["vllm", "serve", deployed.checkpoint, "--tensor-parallel-size", str(pool.tp)]
    options += _if(pool.pp > 1, "--pipeline-parallel-size", pool.pp)
    options += _if(pool.attention_dp > 1, "--data-parallel-size", pool.attention_dp)
    options += ["--enable-expert-parallel"] if pool.ep > 1 else []
    options += ["--max-num-seqs", str(_a_group(pool)), "--max-num-batched-tokens", str(pool.token_budget)]
    options += ["--max-model-len", str(deployed.longest_request_tokens)]
    options += _if(pool.device_fraction < 1.0, "--gpu-memory-utilization", _memory_share(deployed, pool))
    options += ["--enforce-eager"] if deployed.plan.eager else []
    options += _if(deployed.plan.weights in _ONLINE, "--quantization", deployed.plan.weights)
    options += _if(deployed.plan.kv_dtype == "fp8", "--kv-cache-dtype", "fp8")
    if deployed.plan.prefill:
        role = {"prefill": "kv_producer", "decode": "kv_consumer"}[name]
        options += ["--kv-transfer-config", f'{{"kv_connector":"NixlConnector","kv_role":"{role}"}}']
    if deployed.guesses_in(name):
        config: dict[str, object] = {"method": "mtp", "num_speculative_tokens": deployed.plan.draft_tokens}
        if deployed.draft_checkpoint:
            config |= {"method": "draft_model", "model": deployed.draft_checkpoint}
        options += ["--speculative-config", json.dumps(config)]
    return options


def _sglang(deployed: Deployed, name: str, pool: Pool) -> Options:
    """`sglang.launch_server`: --tp-size counts all ranks of a stage, of which attention uses tp / dp."""
    ranks = pool.tp * pool.attention_dp
    options = ["python3", "-m", "sglang.launch_server", "--model-path", deployed.checkpoint, "--tp-size", str(ranks)]
    options += _if(pool.pp > 1, "--pp-size", pool.pp)
    if pool.attention_dp > 1:
        options += ["--dp-size", str(pool.attention_dp), "--enable-dp-attention"]
    options += _if(pool.ep > 1, "--ep-size", pool.ep)
    options += ["--max-running-requests", str(pool.max_sequences), "--chunked-prefill-size", str(pool.token_budget)]
    options += ["--context-length", str(deployed.longest_request_tokens)]
    options += _if(deployed.plan.weights in _ONLINE, "--quantization", deployed.plan.weights)
    options += _if(deployed.plan.kv_dtype == "fp8", "--kv-cache-dtype", "fp8_e4m3")
    options += _if(pool.device_fraction < 1.0, "--mem-fraction-static", _memory_share(deployed, pool))
    options += ["--disable-cuda-graph"] if deployed.plan.eager else []
    if deployed.guesses_in(name):
        guesses = deployed.plan.draft_tokens
        draft = deployed.draft_checkpoint
        options += ["--speculative-algorithm", "STANDALONE" if draft else "EAGLE"]
        options += _if(bool(draft), "--speculative-draft-model-path", draft)
        options += ["--speculative-num-steps", str(guesses), "--speculative-eagle-topk", "1"]
        options += ["--speculative-num-draft-tokens", str(guesses + 1)]
    return options + _if(deployed.plan.prefill is not None, "--disaggregation-mode", name)


def _trtllm(deployed: Deployed, name: str, pool: Pool) -> Options:
    """`trtllm-serve`: --tp_size counts all ranks of a stage; what has no option is a file of LLM API options."""
    if deployed.plan.prefill:
        raise CannotExpress(f"trtllm-serve starts a {name} server from a cluster file that is not written here")
    if pool.attention_dp > 1 and pool.tp > 1:
        degrees = f"attention_dp={pool.attention_dp} with tp={pool.tp}"
        raise CannotExpress(f"trtllm gives every rank requests of its own or none, not {degrees}")
    extra = ["enable_attention_dp: true"] if pool.attention_dp > 1 else []
    extra += ["cuda_graph_config: null"] if deployed.plan.eager else []
    extra += ["kv_cache_config: {dtype: fp8}"] if deployed.plan.kv_dtype == "fp8" else []
    if deployed.guesses_in(name):
        draft = deployed.draft_checkpoint
        guesser = f"Draft_Target, speculative_model: {draft}" if draft else "MTP"
        extra += [f"speculative_config: {{decoding_type: {guesser}, max_draft_len: {deployed.plan.draft_tokens}}}"]
        extra += ["disable_overlap_scheduler: true"] if draft else []
    options = ["trtllm-serve", deployed.checkpoint, "--backend", "pytorch"]
    options += ["--tp_size", str(pool.tp * pool.attention_dp)]
    options += _if(pool.pp > 1, "--pp_size", pool.pp) + _if(pool.ep > 1, "--ep_size", pool.ep)
    options += ["--max_batch_size", str(_a_group(pool)), "--max_num_tokens", str(pool.token_budget)]
    options += ["--max_seq_len", str(deployed.longest_request_tokens)]
    options += ["--kv_cache_free_gpu_memory_fraction", _memory_share(deployed, pool)]
    options += ["--enable_chunked_prefill"] if deployed.engine.chunks_prefill else []
    if not extra:
        return options
    return ["printf", "%s\\n", *extra, _INTO, *options, "--config", _OPTIONS_FILE]


_OPTIONS_FILE = "llm_api_options.yaml"
_INTO = f"> {_OPTIONS_FILE} &&"
"""Shell, not a word: the options' file is written beside the script, then the server is started."""


def _memory_share(deployed: Deployed, pool: Pool) -> str:
    """Of a device's memory that a replica may use."""
    return f"{deployed.engine.usable_memory_fraction * pool.device_fraction:g}"


def _a_group(pool: Pool) -> int:
    """Requests of one group of attention at most: engines count by group."""
    return math.ceil(pool.max_sequences / pool.attention_dp)


def _if(wanted: bool, option: str, value: object) -> Options:
    return [option, str(value)] if wanted else []


SERVING_TARGETS: Mapping[str, ServingTarget] = {
    one.name: one
    for one in (
        ServingTarget("vllm", "0.33", _vllm),
        ServingTarget("sglang", "0.5.23", _sglang),
        ServingTarget("trtllm", "1.3", _trtllm),
    )
}
"""By name."""
