"""Predicted against measured, over tables of others' measurements."""
