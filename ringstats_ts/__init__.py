"""Time series from the status documents that hosts already print."""

__version__ = "0.1.0"
