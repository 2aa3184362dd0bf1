"""Logs that users already have, read into measurements: collectives of nccl-tests, kernels of profiler traces."""
