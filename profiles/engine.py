"""What an inference engine does around its kernels: how it forms batches, and what its host and front end take."""

from typing import Literal

from pydantic import Field

from profiles.record import Count, Fraction, NonNegative, Positive, Record, Sourced

KernelKind = Literal["gemm", "experts", "elementwise", "prefill", "decode", "message"]
"""What an iteration is made of: products, mixtures of experts, memory-bound passes, attention of prompts and of running
requests, and what ranks send to each other."""


class EngineFit(Record):
    """What the constants of an engine were fitted on, and how far they are off on rows left out of the fit."""

    date: str
    num_rows: Count
    """Fitted on one half of them, tested on the other."""
    held_out_ttft_error_fraction: NonNegative
    """Mean."""
    held_out_tpot_error_fraction: NonNegative
    held_out_ttft_p90_error_fraction: NonNegative
    """What nine of ten rows stay below."""
    held_out_tpot_p90_error_fraction: NonNegative

    def interval(self, predicted: float, metric: str) -> tuple[float, float]:
        """Where nine of ten measurements should lie of a predicted "ttft", or of any other time or rate."""
        error = self.held_out_ttft_p90_error_fraction if metric == "ttft" else self.held_out_tpot_p90_error_fraction
        return predicted / (1.0 + error), predicted / max(1.0 - error, 0.1)


class EngineRecord(Sourced):
    """An inference engine of some releases, as far as it changes when tokens appear."""

    library: str = Field(min_length=1)
    """Whose kernels it runs (`profiles.libraries`)."""
    mixes_prefill: bool = True
    """Prompts share iterations with running requests; else waiting prompts go first, in iterations of their own."""
    chunks_prefill: bool = True
    """A prompt that the token budget cannot hold is cut; else it waits until it fits whole."""
    reserves_full_length: bool = False
    """A request is admitted when its whole answer fits too and is never preempted; else its memory grows by blocks,
    and the request that came last is preempted where they run out."""
    poll_interval_iterations: Count = 1
    """Arrivals are looked for at every so many decoding iterations (and after each that runs prompts)."""
    schedules_ahead: bool = False
    """The next batch is formed when the one before it starts to run, of requests that were there by then."""
    balance_wait_iterations: int = Field(default=0, ge=0)
    """Prompts run when every group of attention data parallelism has one, or every so many iterations; 0: at once."""
    balance_gather_iterations: int = Field(default=0, ge=0)
    """For how many iterations more they are gathered when every group has one."""
    batch_wait_iterations: int = Field(default=0, ge=0)
    """Iterations for which prompts wait beside running requests, without attention data parallelism, ..."""
    batch_wait_budget_fraction: Fraction = 1.0
    """... unless a batch with them fills so much of the token budget."""
    captures_prompts: bool = False
    """Iterations with prompts run captured graphs too, between their attentions (piecewise graphs)."""
    block_tokens: Count = 16
    """Tokens whose keys and values are allocated together."""
    token_budget: Count = 8192
    """Tokens of one iteration at most, unless the deployment says otherwise."""
    max_sequences: Count = 256
    """Requests a replica runs at the same time at most, unless the deployment says otherwise."""
    usable_memory_fraction: Fraction = 0.9
    """Share of device memory for weights, keys and values, and everything else."""
    overhead_bytes: NonNegative = 0.0
    """Memory of each device that is neither weights nor keys and values: activations, graphs, communicators."""
    front_end_seconds: NonNegative = 0.0
    """From the client to the engine and back, added once to every request, however many there are."""
    front_end_seconds_per_request: NonNegative = 0.0
    """Time the front end is busy with each request (tokenizing, scheduling it in); requests queue for it."""
    output_seconds_per_token: NonNegative = 0.0
    """Time the output path is busy with each token (detokenizing, streaming); a backlog delays all tokens alike."""
    host_seconds_per_iteration: NonNegative = 0.0
    """Host time of an iteration that no device work hides."""
    host_seconds_per_sequence: NonNegative = 0.0
    """The same for each request that makes a token: sampling, scheduling, detokenizing."""
    host_seconds_per_launch: NonNegative = 0.0
    """Of a kernel that is launched by itself, as eager deployments do; 0: not known."""
    all_reduce_excess_seconds: NonNegative = 0.0
    """What an all-reduce takes beyond its micro-benchmark, for each doubling of its ranks: skew and launch."""
    handover_seconds: NonNegative = 0.0
    """From the end of a prompt in a pool of its own until another may go on with it, beside the way of its keys and
    values over the links."""
    acceptance_fraction: Fraction = 0.0
    """Chance that a token guessed by heads of the model's own is right, given that those before it are, where neither a
    deployment nor a benchmark says; 0: not known."""
    prompt_time_factor: Positive = 1.0
    """Of iterations that run prompts, over the sum of their kernels: they are launched one by one, in eager mode."""
    sparse_prompt_time_factor: Positive = 1.0
    """The same of models with experts, in place of `prompt_time_factor`: their rows are gathered and scattered too."""
    linear_attention_piece_seconds: NonNegative = 0.0
    """What a layer of linear attention takes for each 64 tokens of the longest prompt of an iteration, beyond what it
    moves: its states follow from one another, however many prompts run beside; 0: not known."""
    prompt_time_factors: dict[str, Positive] = Field(default_factory=dict)
    """Form of experts (or of products where there are none) and family of devices, as "fp8_block blackwell" -> a
    further factor of prompts, where the kernels that an engine runs there are not those that were measured."""
    host_seconds_per_prompt_launch: NonNegative = 0.0
    """Of each kernel of such an iteration (as `planner.work.iteration.num_prompt_launches` counts them): what its
    launches take the host is its least time; 0: launches are captured, or shorter than the kernels."""
    host_seconds_per_latent_layer: NonNegative = 0.0
    """The same of each layer with latent attention (MLA) beyond its kernels: keys and values are expanded, joined and
    copied by many small operations."""
    host_seconds_per_guess: NonNegative = 0.0
    """The same for each token that is guessed ahead."""
    captured_launch_fraction: Fraction = 1.0
    """Share of these times that is left where `captures_prompts`."""
    fit: EngineFit | None = None
    """None: the constants were not fitted."""
    ignores_windows: bool = False
    """Every layer attends to the whole context, also where the model has a sliding window."""
    borrowed_kernels: dict[str, str] = Field(default_factory=dict)
    """Kind and form of kernels, as "experts nvfp4" -> the library under whose name they were measured, where the
    engine runs another library's, or its own were measured without a graph."""
    time_factors: dict[KernelKind, Positive] = Field(default_factory=dict)
    """Kind of kernel -> its time over the price of its library: what a record of one's own found on its machine."""
    decode_kernels: dict[str, str] = Field(default_factory=dict)
    """As `borrowed_kernels`: another choice of iterations that only decode, taken where it is faster. Recipes start
    pools for decoding with the kernel that is good for many tokens or for few."""
    latent_as_cached: tuple[KernelKind, ...] = ()
    """Which attention over latents multiplies in the form of the cache ("prefill", "decode"); others in 16 bits."""
    routing_skew: NonNegative = 0.0
    """Exponent of the power law by which tokens choose experts, as the tables of measured kernels count it."""
    fraction_of_free_memory: bool = False
    """Whether `usable_memory_fraction` is of what the weights leave rather than of the whole device."""
