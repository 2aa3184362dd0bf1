"""What a run keeps on the host, from what its source says."""

import re

from planner.offload import Offload
from validate.runs.table import Run

_NOT = r"(?<!no )(?<!no-)"
_WORDS = (
    (rf"{_NOT}full cpu offload", Offload.OPTIMIZER | Offload.PARAMETERS),
    (rf"{_NOT}(optimizer|adamw?) offload|{_NOT}\bcpu offload\b", Offload.OPTIMIZER),
    (rf"{_NOT}param(eter)?s? offload", Offload.PARAMETERS),
    (rf"{_NOT}(checkpoint-in-cpu(?!=n)|activation offload)", Offload.ACTIVATIONS),
)


def offload_of(run: Run) -> Offload:
    """Every part that the flags name; a capability in brackets, or one that is said to be off, is none."""
    said = re.sub(r"\([^)]*capability\)", "", run.other_flags)
    found = Offload.NOTHING
    for words, part in _WORDS:
        if re.search(words, said, re.IGNORECASE):
            found |= part
    return found
