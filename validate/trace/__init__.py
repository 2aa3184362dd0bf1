"""A plan traced without its cluster: torch's own code on fake tensors in a fake process group, one rank at a time.

What torch would compute, send and keep is counted operation by operation and set beside the planner's figures.
"""
