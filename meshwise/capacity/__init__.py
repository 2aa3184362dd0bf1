"""The capacity question: its job file and options, its cache of searches, and its answer as JSON."""
