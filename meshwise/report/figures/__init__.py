"""Plots of reports, one kind a file; each returns a matplotlib Figure and is drawn under `style.drawn`."""
