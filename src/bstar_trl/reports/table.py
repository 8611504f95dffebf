"""A table that grows by a line per iteration while the run trains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import IntervalStrategy, TrainerCallback

from ..errors import ConfigurationError
from .columns import COLUMNS, Column, evaluation_columns
from .curves import load_pyplot, plot_curves
from .history import iteration_rows

logger = logging.getLogger(__name__)
NARROWEST = 8  # characters of a cell


class LiveTable(TrainerCallback):
    """
    Prints a line per iteration: the setting, exploration at it, what was selected, and evaluations.

    The table of a resumed run begins with the lines of its checkpoint. `trainer.remove_callback(ProgressCallback)`
    keeps the trainer from printing its own log between them.

    Args:
        curves (`str` or `Path`, *optional*): a PNG with the run's curves, written anew after every iteration.

    Raises:
        ConfigurationError: at the training's begin, with another trainer than `BSTaRTrainer`.
        MissingDependencyError: curves are wanted, and matplotlib is not installed.
    """

    def __init__(self, curves: str | Path | None = None) -> None:
        if curves is not None:
            load_pyplot()  # a missing one is found now, not after the first iteration
        self.curves = curves
        self._num_steps = 0  # `setup` says how many
        self._columns: list[Column] = []
        self._printed = -1  # the last iteration in the table
        self._titles: list[str] = []

    def setup(self, num_steps: int, num_generations: int) -> None:
        """Called by `BSTaRTrainer` with the optimizer steps of an iteration and the responses per query."""
        self._num_steps = num_steps
        self._columns = [column.with_k(num_generations) for column in COLUMNS]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A new table."""
        if not self._num_steps:
            raise ConfigurationError(
                "LiveTable works with BSTaRTrainer alone: replace this trainer by it, or leave the table out"
            )
        if args.logging_strategy == IntervalStrategy.NO:
            logger.warning("logging_strategy='no': LiveTable has nothing to print")
        self._printed, self._titles = -1, []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An iteration is over when the next one begins: its evaluation has come, too."""
        if state.global_step % self._num_steps == 0:
            self._print(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last line."""
        self._print(state)

    def _print(self, state: Any) -> None:
        rows = iteration_rows(state.log_history)
        if not state.is_world_process_zero or not rows:
            return
        columns = [*self._columns, *evaluation_columns(rows)]
        titles = [column.short for column in columns]
        for row in rows:
            if row["iteration"] <= self._printed:
                continue
            if titles != self._titles:
                self._titles = titles
                tqdm.write(self._line("iteration", titles))
            number = "start" if row["iteration"] == 0 else f"{row['iteration']:.0f}"
            tqdm.write(self._line(number, [column.cell(row) for column in columns]))
            self._printed = int(row["iteration"])
        if self.curves is not None:
            Path(self.curves).parent.mkdir(parents=True, exist_ok=True)
            plot_curves({"this run": rows}, self.curves)

    def _line(self, first: str, cells: Sequence[str]) -> str:
        widths = [max(NARROWEST, len(title)) for title in self._titles]
        return f"{first:>9}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
