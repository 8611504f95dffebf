"""Where an iteration's details and responses go: the run's folder at once, trackers with its first log line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import BSTaRConfig
from ..reports.run_files import RunRecorder
from ..trackers import make_trackers
from .tables import CompletionsTable, log_completions


@dataclass(frozen=True)
class _Pending:
    """An iteration that no line of the log has been about yet."""

    iteration: int
    details: Mapping[str, Any]
    table: CompletionsTable | None


class Monitor:
    """Passes on what an iteration found.

    Args:
        args (`BSTaRConfig`): the trainer's.
        num_iterations (`Callable`): how many iterations the run has begun.
        described (`Callable`): what the run is, beyond `args`, ready for JSON.
        callbacks (`Callable`): the trainer's callbacks.

    Attributes:
        recorder (`RunRecorder`): a callback, which the trainer adds.
    """

    def __init__(
        self,
        args: BSTaRConfig,
        num_iterations: Callable[[], int],
        described: Callable[[], Mapping[str, Any]],
        callbacks: Callable[[], Sequence[Any]],
    ):
        self.args = args
        self.recorder = RunRecorder(str(args.output_dir), num_iterations)
        self._trackers = make_trackers(args.report_to, described, callbacks)
        self._pending: _Pending | None = None

    def add(self, iteration: int, details: Mapping[str, Any], table: CompletionsTable | None) -> None:
        """An iteration has explored and selected.

        Args:
            iteration (`int`): as logged, from 0.
            details (`Mapping`): as of [`iteration_details`].
            table (`dict`, *optional*): its responses, where `log_completions` is on.
        """
        self.recorder.add(iteration, details)
        self._pending = _Pending(iteration, details, table)

    def logged(self, step: int, *, is_main: bool) -> None:
        """A line of the training was logged at this optimizer step: each iteration is passed on once."""
        pending, self._pending = self._pending, None
        if pending is None or not is_main:
            return
        if pending.table is not None:
            shown = log_completions(pending.table, self.args, step)
            for tracker in self._trackers:
                tracker.send_completions(pending.iteration, step, shown)
        for tracker in self._trackers:
            tracker.send_details(pending.iteration, step, pending.details)
