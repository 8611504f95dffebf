"""What a run tells while it trains and afterwards: its history by iteration, a live table, curves."""

from .curves import plot_curves
from .history import iteration_rows
from .table import LiveTable

__all__ = ["LiveTable", "iteration_rows", "plot_curves"]
