"""Answers as tables for people: aligned, 120 columns at most, plain text when not on a terminal."""
