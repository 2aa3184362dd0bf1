"""Serving jobs: their files, the traffic they name, how they are played, and what is said of it."""
