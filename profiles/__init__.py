"""What is true before any plan: accelerators, clusters, models, workloads, software, calibrations."""
