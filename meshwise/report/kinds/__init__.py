"""One file a command: what its answer looks like as a report."""
