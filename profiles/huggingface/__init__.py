"""A Hugging Face `config.json` read as a transformer shape.

`families.FAMILIES` is the whole knowledge, family by family. A key that would change the shape and that nothing
there understands is refused: no part of a model is guessed or dropped in silence.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from profiles.huggingface.config import Config
from profiles.huggingface.families import FAMILIES, NESTED, SAME_AS, Family, Fields
from profiles.model import TransformerShape

__all__ = ["from_config", "known_model_types"]


def known_model_types() -> tuple[str, ...]:
    """The values of `model_type` that can be read."""
    return tuple(sorted({*FAMILIES, *NESTED, *SAME_AS}))


def from_config(values: Mapping[str, Any], name: str) -> TransformerShape:
    """The shape of the language model that a `config.json` describes, whatever head `architectures` puts on it.

    `values` is the parsed file; keys it leaves out take the defaults of transformers 4.57.1. Of a model with
    several towers it is the text tower. Raises ValueError, naming the key, its value and what would be right, for
    a `model_type` that is not known, a value that cannot be, or a key that may change the model and is not
    understood.
    """
    family, text, notes = _language_model(values, name)
    config = Config(text, name)
    fields = _fields(config, family)
    config.refuse_unknown()
    fields["notes"] = "; ".join(filter(None, (notes, fields.get("notes"))))
    try:
        return TransformerShape(name=name, family=family.label, source=f"the config.json of {name}", **fields)
    except ValidationError as error:
        fault = error.errors()[0]
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] != "value_error":
            what = f"{'.'.join(map(str, fault['loc']))}: {what}, got {reprlib.repr(fault['input'])}"
        raise ValueError(f"config of {name}: {what}") from None


def _language_model(values: Any, name: str) -> tuple[Family, Mapping[str, Any], str]:
    """The family of the text tower, its part of the config, and what to note about the choice."""
    if not isinstance(values, Mapping):
        raise ValueError(f"config of {name}: must be a JSON object, got {type(values).__name__}")
    model_type, notes = str(values.get("model_type")), ""
    if model_type in NESTED:
        inner = values.get("text_config")
        if not isinstance(inner, Mapping):
            raise ValueError(f"config of {name}: text_config must be an object, got {type(inner).__name__}")
        shared = {key: values[key] for key in ("tie_word_embeddings",) if key in values}
        values, model_type, notes = shared | dict(inner), NESTED[model_type], "the text tower only"
    family = FAMILIES.get(SAME_AS.get(model_type, model_type))
    if family is None:
        known = ", ".join(known_model_types())
        raise ValueError(f"config of {name}: model_type must be one of {known}, got {model_type[:40]!r}")
    return family, values, notes


def _fields(config: Config, family: Family) -> Fields:
    """The fields of the shape: the sizes, what is always so, then what each part of the family adds."""
    fields: Fields = {}
    for key in ("vocabulary_size", "max_sequence_length", "hidden_size", "num_layers", "num_heads"):
        fields[key] = config.count(family.keys[key], family.defaults[key])
    for key in ("ffn_size", "num_kv_heads", "head_dim"):
        default = family.defaults[key]
        fields[key] = config.optional_count(family.keys[key], default) if key in family.keys else default
    fields["ffn_size"] = fields["ffn_size"] or 4 * fields["hidden_size"]
    fields["num_kv_heads"] = fields["num_kv_heads"] or fields["num_heads"]
    if fields["head_dim"] is None:
        if fields["hidden_size"] % fields["num_heads"]:
            raise config.error(family.keys["num_heads"].split()[0], "a divisor of the hidden size without head_dim")
        fields["head_dim"] = fields["hidden_size"] // fields["num_heads"]
    fields |= {"tied_embeddings": config.flag("tie_word_embeddings", family.tied), **family.always}
    extra = 0
    for part in family.parts:
        fields |= part(config, fields)
        extra += fields.pop("num_extra_parameters", 0)
    return fields | {"num_extra_parameters": extra}
