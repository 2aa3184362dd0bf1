"""Measures a machine, or reads what was measured, and fits the profile that predictions use."""
