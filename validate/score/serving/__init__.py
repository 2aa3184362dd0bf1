"""Predicted against measured serving runs: each row's benchmark is played."""
