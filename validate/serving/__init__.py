"""A small server that really runs: continuous batching in torch on this machine, against what the simulator says."""
