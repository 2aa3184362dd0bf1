"""The face: command line, tables, plots, exporters."""

__version__ = "0.1.0"
