"""Layouts: how many layers each chunk of a pipeline holds, as numbers, as text, and as codes of a grid's column.

The text is that of Megatron-Core's --pipeline-model-parallel-layout: E embedding, t layer, L loss, | between chunks,
`t*4` four times, `(t*4|)*2` two chunks (its megatron/core/transformer/pipeline_parallel_layer_layout.py).
"""

import re
from itertools import groupby

Layout = tuple[int, ...]
"""Layers (without embedding and head) of each chunk, in the order of the model; empty: equal shares."""
EVEN: Layout = ()

_LAYOUTS: list[Layout] = [EVEN]
_CODES: dict[Layout, int] = {EVEN: 0}


def layout_code(layout: Layout) -> int:
    """The number that stands for `layout` in a grid's column of this process; 0 for EVEN."""
    if layout not in _CODES:
        _CODES[layout] = len(_LAYOUTS)
        _LAYOUTS.append(layout)
    return _CODES[layout]


def layout_of(code: int) -> Layout:
    """The inverse of `layout_code`."""
    return _LAYOUTS[code]


def written(layout: Layout) -> str:
    """A layout as files and command lines hold it: `even`, or as Megatron-Core writes it."""
    if not layout:
        return "even"
    chunks = [_layers(count) for count in layout]
    chunks[0], chunks[-1] = "E" + chunks[0], chunks[-1] + "L"
    *before, last = chunks
    groups = [(text, len(list(same))) for text, same in groupby(before)]
    return "".join(f"{text}|" if times == 1 else f"({text}|)*{times}" for text, times in groups) + last


def _layers(count: int) -> str:
    return f"t*{count}" if count > 1 else "t" * count


def parsed(text: str) -> Layout:
    """The layout that `text` names: `even`, layers by chunk ("4,4,3"), or Megatron-Core's notation.

    Raises ValueError for anything else.
    """
    if text == "even":
        return EVEN
    if re.fullmatch(r"\d+(,\d+)*", text):
        return tuple(int(count) for count in text.split(","))
    flat = text.replace(",", "").replace(" ", "")
    while found := re.search(r"\(([^()]*)\)\*(\d+)", flat):
        flat = flat[: found.start()] + found.group(1) * int(found.group(2)) + flat[found.end() :]
    flat = re.sub(r"([tEL])\*(\d+)", lambda found: found.group(1) * int(found.group(2)), flat)
    chunks = flat.removesuffix("|").split("|")
    if len(flat) > LONGEST or not re.fullmatch(r"Et*(\|t*)*L", "|".join(chunks)):
        raise ValueError(
            f"layout: {text!r} is not a layout; give even, best, layers by chunk (4,4,3) or Megatron-Core's "
            "notation (Et*4|(t*4|)*2tL)"
        )
    return tuple(chunk.count("t") for chunk in chunks)


LONGEST = 100_000
"""Characters of a layout written out."""
