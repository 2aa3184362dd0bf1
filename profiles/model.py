"""What is computed: the shape of a transformer, or a plain list of layers.

A shape says what the layers are; what a split makes of them is `planner.work.layers`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from profiles.record import NonNegative, Positive, Record, Sourced

MAX_SIZE, MAX_LAYERS = 100_000_000, 100_000
"""Far above any model; a larger figure is a mistyped file, caught before anything is computed from it."""
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
SizeOrZero = Annotated[int, Field(ge=0, le=MAX_SIZE)]
"""A width, length or number of things that may be absent, which is 0."""


class MixtureOfExperts(Record):
    """The feed-forward part of the sparse layers."""

    num_experts: Size
    top_k: Size
    expert_ffn_size: Size
    num_shared_experts: SizeOrZero = 0
    shared_ffn_size: SizeOrZero = 0
    """Width of all shared experts together; 0 means num_shared_experts * expert_ffn_size."""
    num_first_dense_layers: SizeOrZero = 0
    num_groups: Size = 1
    """Equal groups of experts that lie side by side."""
    num_chosen_groups: Size = 1
    """Groups that hold all the experts of a token (node-limited routing)."""
    layer_step: Size = 1
    """Every `layer_step`-th layer after the first dense ones is sparse (the last of each such group)."""

    @model_validator(mode="after")
    def _top_k_fits(self) -> "MixtureOfExperts":
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k must be at most num_experts ({self.num_experts}), got {self.top_k}")
        return self

    @model_validator(mode="after")
    def _groups_fit(self) -> "MixtureOfExperts":
        if self.num_experts % self.num_groups or self.num_chosen_groups > self.num_groups:
            raise ValueError(
                f"num_groups must divide num_experts ({self.num_experts}) and be at least num_chosen_groups "
                f"({self.num_chosen_groups}), got {self.num_groups}"
            )
        return self

    @property
    def shared_width(self) -> int:
        """Width of all shared experts together."""
        return self.shared_ffn_size or self.num_shared_experts * self.expert_ffn_size


class LatentAttention(Record):
    """Multi-head latent attention (DeepSeek-V2/V3)."""

    q_lora_rank: SizeOrZero = 0
    """0: queries are projected directly."""
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size


class LinearAttention(Record):
    """Layers whose heads keep one state a sequence in place of keys and values (gated delta nets, [Yang 2024,
    arXiv:2412.06464]): each value head a matrix of key_head_dim by value_head_dim."""

    num_key_heads: Size
    key_head_dim: Size
    num_value_heads: Size
    value_head_dim: Size

    @property
    def mixed_width(self) -> int:
        """Columns of queries, keys and values together."""
        return 2 * self.num_key_heads * self.key_head_dim + self.num_value_heads * self.value_head_dim

    @property
    def num_weights_per_input(self) -> int:
        """Columns of the input projection: queries, keys, values, the output's gate, and two gates a value head."""
        return self.mixed_width + self.num_value_heads * (self.value_head_dim + 2)

    @property
    def state_elements(self) -> int:
        """Of one sequence."""
        return self.num_value_heads * self.key_head_dim * self.value_head_dim


class TransformerShape(Sourced):
    """A decoder-only, encoder-only or encoder-decoder transformer."""

    kind: Literal["transformer"] = "transformer"
    family: str
    num_layers: int = Field(ge=1, le=MAX_LAYERS)
    """Decoder layers; for an encoder-only model its layers."""
    hidden_size: Size
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size
    ffn_size: Size
    """Width of the dense feed-forward part."""
    vocabulary_size: Size
    max_sequence_length: Size
    gated_ffn: bool = False
    """Three matrices (gate, up, down) instead of two."""
    tied_embeddings: bool = False
    num_learned_positions: SizeOrZero = 0
    qkv_bias: bool = False
    """Biases on the query, key and value projections."""
    linear_bias: bool = False
    """Biases on every other linear layer: attention output, feed-forward parts, experts, routers."""
    norm: Literal["layer_norm", "rms_norm"] = "rms_norm"
    norms_per_layer: Size = 2
    """On the residual stream; one where attention and feed-forward part read the same normalised input."""
    qk_norm: bool = False
    """Queries and keys are normalised, head by head."""
    causal: bool = True
    sliding_window: Size | None = None
    """Keys a query sees; None: all of them."""
    full_attention_step: SizeOrZero = 0
    """Every `full_attention_step`-th layer sees the whole sequence in spite of the window, or has keys and values in
    spite of `linear_attention`; 0: none does."""
    linear_attention: LinearAttention | None = None
    """What the other layers have in place of softmax attention; None: they have that."""
    gated_attention: bool = False
    """Softmax attention multiplies its output by a gate, projected like the queries."""
    num_encoder_layers: int = Field(default=0, ge=0, le=MAX_LAYERS)
    """Encoder layers in front of the decoder; decoder layers then also attend to the encoder's output."""
    moe: MixtureOfExperts | None = None
    mla: LatentAttention | None = None
    num_mtp_modules: Annotated[int, Field(ge=0, le=64)] = 0
    """Modules that are trained to predict further tokens, each a projection, a layer like the last one and the shared
    embedding and head; no part of the model that serves [DeepSeek-AI 2024, arXiv:2412.19437, section 2.2]."""
    num_extra_parameters: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Parameters outside the layers described here (poolers, relative position tables)."""
    published_parameters: Positive | None = None
    published_active_parameters: Positive | None = None
    aliases: tuple[str, ...] = ()
    """Other names of the same model, such as its Hugging Face repository."""

    @model_validator(mode="after")
    def _heads_group(self) -> "TransformerShape":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads ({self.num_heads}), got {self.num_kv_heads}")
        return self

    @model_validator(mode="after")
    def _mtp_follows_a_decoder(self) -> "TransformerShape":
        if self.num_mtp_modules and (self.num_encoder_layers or not self.causal):
            raise ValueError(f"num_mtp_modules must be 0 but for decoders, got {self.num_mtp_modules}")
        if self.num_mtp_modules and self.moe and (self.moe.layer_step > 1 or not self.is_sparse_layer[-1]):
            raise ValueError(
                f"num_mtp_modules must be 0 where not all layers after the first are sparse, got {self.num_mtp_modules}"
            )
        return self

    @model_validator(mode="after")
    def _latent_attention_fits(self) -> "TransformerShape":
        if self.mla is None:
            return self
        if self.head_dim != self.mla.qk_nope_head_dim + self.mla.qk_rope_head_dim:
            raise ValueError(
                "head_dim must be qk_nope_head_dim + qk_rope_head_dim "
                f"({self.mla.qk_nope_head_dim} + {self.mla.qk_rope_head_dim}), got {self.head_dim}"
            )
        if self.qkv_bias or self.qk_norm:
            raise ValueError("qkv_bias and qk_norm must be false with latent attention (mla), got true")
        return self

    @model_validator(mode="after")
    def _linear_attention_fits(self) -> "TransformerShape":
        if self.linear_attention and (self.sliding_window or self.mla or self.num_encoder_layers):
            raise ValueError("linear_attention goes with neither sliding_window, mla nor num_encoder_layers")
        return self

    @property
    def is_sparse_layer(self) -> tuple[bool, ...]:
        """For each decoder layer, whether its feed-forward part is a mixture of experts."""
        if self.moe is None:
            return (False,) * self.num_layers
        first, step = self.moe.num_first_dense_layers, self.moe.layer_step
        return tuple(layer >= first and (layer - first) % step == step - 1 for layer in range(self.num_layers))

    @property
    def num_full_attention_layers(self) -> int:
        """Decoder layers whose queries see the whole sequence."""
        if self.sliding_window is None and self.linear_attention is None:
            return self.num_layers
        return self.num_layers // self.full_attention_step if self.full_attention_step else 0


class ListedLayer(Record):
    """One layer of a model given as a list; figures are for one sample, in the forward direction."""

    name: str = Field(min_length=1)
    parameters: NonNegative
    forward_flops: NonNegative
    forward_bytes: NonNegative
    """Memory traffic of the forward pass: inputs, outputs and weights."""
    saved_activation_bytes: NonNegative
    """Bytes kept for the backward pass."""
    output_bytes: NonNegative
    """Bytes handed to the next layer."""


class LayerList(Sourced):
    """A model as a plain list of layers (a CNN, a GAN): data and pipeline splits only."""

    kind: Literal["layers"] = "layers"
    family: str = "layers"
    layers: tuple[ListedLayer, ...] = Field(min_length=1)
    published_parameters: Positive | None = None
    aliases: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        """Layers in the list."""
        return len(self.layers)


ModelShape = Annotated[TransformerShape | LayerList, Field(discriminator="kind")]
