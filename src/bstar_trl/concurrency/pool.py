"""A pool of processes that are lent to one task at a time, and killed when they misbehave or are worn out."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Member(Protocol):
    """A process of the pool. It belongs to one thread at a time."""

    retired: bool  # not to be lent again

    def usable(self) -> bool:
        """Whether it still runs."""

    def end(self) -> None:
        """Kill it, wait until it is gone, and remove what it holds."""

    def forget(self) -> None:
        """In a forked child: let go of the parent's process without touching it."""


M = TypeVar("M", bound=Member)


class ProcessPool(Generic[M]):
    """Members start when they are needed and stay until `close`. Safe to use from any thread, and after a fork.

    Args:
        start: starts a member. It enters the member into the set it is given as soon as there is a process, so that
            nothing outlives this interpreter; and takes it out should the start fail.
        places (`int`): members lent at once, at most; further tasks wait.
        kept (`int`, *optional*): idle members kept, at most; None: as many as there are places.
    """

    def __init__(self, start: Callable[[set[M]], M], places: int, kept: int | None = None):
        self._start = start
        self._number = places
        self._kept = places if kept is None else kept
        self._prepare()

    def claim(self) -> None:
        """After a fork start anew: the members, and whoever held the locks, stayed with the parent."""
        if self._owner != os.getpid():
            self._finalizer.detach()
            for member in self._alive:
                member.forget()
            self._prepare()

    @contextmanager
    def lend(self, *, fresh: bool = False) -> Iterator[M]:
        """A member for one task; with `fresh` a newly started one."""
        self.claim()
        with self._places:
            with self._lock:
                member = self._idle.pop() if self._idle else None
                generation = self._generation
            if member is not None and (fresh or not member.usable()):
                self._end(member)
                member = None
            if member is None:
                member = self._start(self._alive)
            try:
                yield member
            except BaseException:  # a Ctrl-C too: a member in the middle of something is not used again
                self._end(member)
                raise
            with self._lock:
                keep = generation == self._generation and not member.retired and len(self._idle) < self._kept
                if keep:
                    self._idle.append(member)
            if not keep:
                self._end(member)

    def close(self) -> None:
        """End the members; those in the middle of a task for another thread end with it."""
        self.claim()
        with self._lock:
            idle = self._idle.copy()
            self._idle.clear()
            self._generation += 1
        for member in idle:
            self._end(member)

    def _prepare(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(self._number)
        self._idle: list[M] = []
        self._alive: set[M] = set()
        self._generation = 0
        self._finalizer = weakref.finalize(self, _end_all, self._alive, self._owner)

    def _end(self, member: M) -> None:
        member.end()
        self._alive.discard(member)


def _end_all(alive: set[M], owner: int) -> None:
    if os.getpid() == owner:
        for member in list(alive):
            member.end()
        alive.clear()
