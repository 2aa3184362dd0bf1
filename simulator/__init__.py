"""The same step program on a clock."""
