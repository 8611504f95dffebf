"""A pool that lends each process to one task at a time, and kills a process after a failure or at its retirement."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Member(Protocol):
    """A process of the pool. One thread at a time uses it."""

    retired: bool  # the pool does not lend it again

    def usable(self) -> bool:
        """Whether the process still runs."""

    def end(self) -> None:
        """Kill the process, wait for its end, and remove its files and pipes."""

    def forget(self) -> None:
        """In a forked child: release the handles of the parent's process, and leave the process alone."""


M = TypeVar("M", bound=Member)


class ProcessPool(Generic[M]):
    """Starts members when they are needed and keeps them until `close`. Any thread may use it, also after a fork.

    Args:
        start: starts a member. It adds the member to the set passed to it as soon as the process runs, so that no
            process outlives this interpreter, and removes it again if the start fails.
        places (`int`): largest number of members lent at once; further tasks wait.
        kept (`int`, *optional*): largest number of idle members; None: `places`.
    """

    def __init__(self, start: Callable[[set[M]], M], places: int, kept: int | None = None):
        self._start = start
        self._number = places
        self._kept = places if kept is None else kept
        self._prepare()

    def claim(self) -> None:
        """In a forked child, reset the pool: its members and the holders of its locks belong to the parent."""
        if self._owner != os.getpid():
            self._finalizer.detach()
            for member in self._alive:
                member.forget()
            self._prepare()

    @contextmanager
    def lend(self, *, fresh: bool = False) -> Iterator[M]:
        """Lend a member for one task; `fresh` demands a new one."""
        self.claim()
        with self._places:
            with self._lock:
                member = self._idle.pop() if self._idle else None
                num_closed = self._num_closed
            if member is not None and (fresh or not member.usable()):
                self._end(member)
                member = None
            if member is None:
                member = self._start(self._alive)
            try:
                yield member
            except BaseException:  # Ctrl-C too: an interrupted member is in an unknown state
                self._end(member)
                raise
            with self._lock:
                keep = num_closed == self._num_closed and not member.retired and len(self._idle) < self._kept
                if keep:
                    self._idle.append(member)
            if not keep:
                self._end(member)

    def close(self) -> None:
        """End the idle members; a member in use by another thread ends after its task."""
        self.claim()
        with self._lock:
            idle = self._idle.copy()
            self._idle.clear()
            self._num_closed += 1
        for member in idle:
            self._end(member)

    def _prepare(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(self._number)
        self._idle: list[M] = []
        self._alive: set[M] = set()
        self._num_closed = 0
        self._finalizer = weakref.finalize(self, _end_all, self._alive, self._owner)

    def _end(self, member: M) -> None:
        member.end()
        self._alive.discard(member)


def _end_all(alive: set[M], owner: int) -> None:
    if os.getpid() == owner:
        for member in list(alive):
            member.end()
        alive.clear()
