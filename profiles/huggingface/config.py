"""A `config.json` being read, with every key accounted for and named in every error."""

import re
import reprlib
from collections.abc import Mapping
from typing import Any

from profiles.model import MAX_SIZE

_HARMLESS = re.compile(
    # Training, initialisation and numerics; text generation; bookkeeping of the file; classification heads.
    r".*dropout.*|.*_pdrop|layerdrop|.*_eps|.*epsilon|.*init.*|.*_(act|act_fn|activation|activation_function)"
    r"|hidden_act|activation|activation_function|is_gated_act|.*_loss_coef|.*dtype|use_bfloat16|aux_loss_alpha"
    r"|.*softcapping|query_pre_attn_scalar|scale_.*|reorder_and_upcast_attn|attention_softmax_in_fp32|seq_aux"
    r"|masked_softmax_fusion|bias_dropout_fusion|skip_bias_add.*|slow_but_exact|apply_residual_.*|router_jitter.*"
    r"|swiglu_limit|rope_.*|rotary.*|partial_rotary_factor|alibi|offset_alibi|original_max_position_embeddings"
    r"|initial_context_length|max_sequence_length|n_ctx|model_max_length|relative_attention_max_distance"
    r"|use_parallel_residual|norm_topk_prob|topk_method|scoring_func|routed_scaling_factor"
    r"|ep_size|pretraining_tp|gradient_checkpointing|chunk_size_feed_forward|use_cache|cache_implementation"
    r"|.*token_ids?|.*_token_index|output_.*|return_dict.*|.*_sample|.*beam.*"
    r"|.*penalty|.*_ngram_size|(max|min)_length|early_stopping|temperature|top_k|top_p|typical_p|bad_words_ids"
    r"|num_return_sequences|suppress_tokens|begin_suppress_tokens|remove_invalid_values|prefix|pad_token|torchscript"
    r"|architectures|auto_map|model_type|transformers_version|tokenizer_class|processor_class|finetuning_task"
    r"|problem_type|task_specific_params|id2label|label2id|num_labels|classifier_.*|summary_.*|quantization_config"
    r"|hf_quant_config|tf_legacy_loss|_.*"
)
"""Keys that change neither the sizes of the weights nor the FLOPs."""


class Config:
    """A config being read: remembers which keys were understood, and names the key in every error."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self.values, self.name = values, name
        self.understood: set[str] = set()

    def error(self, key: str, wanted: str) -> ValueError:
        """The error for a key whose value will not do."""
        got = reprlib.repr(self.values[key]) if key in self.values else "nothing"
        return ValueError(f"config of {self.name}: {key} must be {wanted}, got {got}")

    def key(self, spellings: str) -> str:
        """Whichever of the spellings the file uses; the first when it uses none."""
        names = spellings.split()
        self.understood.update(names)
        return next((name for name in names if name in self.values), names[0])

    def count(self, spellings: str, default: int | None, least: int = 1) -> int:
        """An integer; a default of None means that the key must be there."""
        key = self.key(spellings)
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_SIZE:
            raise self.error(key, f"an integer from {least} to {MAX_SIZE}")
        return value

    def optional_count(self, spellings: str, default: int | None) -> int | None:
        """An integer, or None where the file says null."""
        return None if self.values.get(self.key(spellings), default) is None else self.count(spellings, default)

    def flag(self, spellings: str, default: bool) -> bool:
        """A boolean."""
        key = self.key(spellings)
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def only(self, spellings: str, accepted: Any) -> None:
        """Refuse every value but one."""
        key = self.key(spellings)
        if key in self.values and self.values[key] != accepted:
            raise self.error(key, f"{accepted!r}, the only value that is modelled")

    def refuse_unknown(self) -> None:
        """Refuse a key that has an effect (is not null, false, zero or empty) and that nothing understood."""
        for key, value in self.values.items():
            if value and key not in self.understood and not _HARMLESS.fullmatch(str(key)):
                raise ValueError(
                    f"config of {self.name}: {reprlib.repr(key)} = {reprlib.repr(value)} is not understood and may "
                    "change the model; remove the key if it does not"
                )
