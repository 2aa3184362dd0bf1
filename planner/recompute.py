"""What the backward pass computes again instead of keeping: by layer, by module, or by operator."""

from enum import IntEnum, IntFlag

from planner.flags import named, names_of


class Recompute(IntEnum):
    """A policy of recomputation."""

    NONE = 0
    SELECTIVE = 1
    """The modules of `Plan.recompute_modules`: the attention core (scores, softmax, context) by default."""
    FULL = 2
    """Layers from their input: all, or `Plan.recompute_layers` of each chunk."""
    OPERATORS = 3
    """All but the fused attention, every second matrix product and what collectives brought (torchtitan's selective
    activation checkpointing "op")."""

    @classmethod
    def parse(cls, text: str) -> "Recompute":
        """The member named `text`; raises ValueError listing the names."""
        try:
            return cls[text.upper()]
        except KeyError:
            names = ", ".join(member.name.lower() for member in cls)
            raise ValueError(f"recompute: {text!r} is not one of {names}") from None


class Module(IntFlag):
    """Parts of a layer that selective recomputation can run again, as Megatron-Core's --recompute-modules names them.

    The first three drop what lies inside them; `layernorm`, `moe_act` and `mla_up_proj` drop their output
    (NVIDIA/Megatron-LM megatron/core/transformer/transformer_config.py, recompute_modules).
    """

    NOTHING = 0
    CORE_ATTN = 1
    """Scores, softmax and context."""
    MLP = 2
    """The dense feed-forward part with its norm."""
    MOE = 4
    """The whole mixture of experts, dispatch included."""
    LAYERNORM = 8
    """The norms before attention and feed-forward part."""
    MOE_ACT = 16
    """The activation inside the experts."""
    SHARED_EXPERTS = 32
    MLA_UP_PROJ = 64
    """The up-projections of latent attention."""

    @classmethod
    def parse(cls, text: str) -> "Module":
        """The modules named in `text`, separated by commas; raises ValueError listing the names."""
        return named(cls, text, "recompute_modules")

    @property
    def words(self) -> str:
        """The names, separated by commas."""
        return names_of(self)
