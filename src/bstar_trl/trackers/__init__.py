"""What trackers are sent beyond the figures that transformers' callbacks send: what the run is, maps of the score,
histograms, responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .base import Tracker
from .with_tensorboard import TensorBoardTracker
from .with_trackio import TrackioTracker
from .with_wandb import WandbTracker

__all__ = ["TensorBoardTracker", "Tracker", "TrackioTracker", "WandbTracker", "make_trackers"]

KINDS: dict[str, type[Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
}


def make_trackers(
    report_to: Sequence[str] | None, described: Callable[[], Mapping[str, Any]], callbacks: Callable[[], Sequence[Any]]
) -> list[Tracker]:
    """A tracker for each name of `report_to` that this package has one for.

    Args:
        report_to (`Sequence[str]`, *optional*): the trainer's.
        described: as of [`Tracker`].
        callbacks: as of [`Tracker`].
    """
    return [kind(described, callbacks) for name, kind in KINDS.items() if name in (report_to or [])]
