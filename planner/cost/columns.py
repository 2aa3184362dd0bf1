"""What each price depends on: the columns of a grid whose combinations are priced once, then gathered to all plans.

A plan field that changes a price stands in the list of that price, or plans that differ in it alone would cost the
same; `tests/test_columns.py` holds every field to that.
"""

WORK_COLUMNS = (
    "tp", "cp", "ep", "etp", "cp_a2a", "cp_gather", "micro_batch", "recompute", "recompute_modules",
    "num_recomputed_layers", "offload", "sequence_parallel", "numbering",
)  # fmt: skip
"""The forward and backward work of a layer (`planner.cost.stages`, `planner.choose.bounds`)."""
SHARDING_COLUMNS = ("dp", "pp", "zero_stage", "reshard_after_forward", "dp_replicate")
"""The data-parallel messages of a layer, besides."""
TRANSFER_COLUMNS = ("tp", "cp", "dp", "pp", "micro_batch", "sequence_parallel", "order")
"""A message between neighbouring stages (`planner.cost.estimate`)."""
GRADIENT_COLUMNS = (
    "tp", "cp", "ep", "etp", "dp", "pp", "vp", "schedule", "layout", "zero_stage",
    "reshard_after_forward", "dp_replicate", "offload", "order",
)  # fmt: skip
"""Data-parallel work once a step (`planner.cost.gradients`), and the states it works on (`planner.cost.memory`)."""
STAGE_COLUMNS = ("pp", "vp", "schedule", "layout")
"""The layers of every stage (`planner.cost.stage_loads`)."""
LOAD_COLUMNS = (
    "tp", "cp", "ep", "etp", "cp_a2a", *STAGE_COLUMNS, "micro_batch", "recompute", "recompute_modules",
    "num_recomputed_layers", "sequence_parallel",
)  # fmt: skip
"""What a stage holds, before sharding and offloading (`planner.cost.memory`)."""
