"""A plan as the configuration that a training framework's launcher takes: one module per framework."""
