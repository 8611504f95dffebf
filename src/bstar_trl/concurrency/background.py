"""Work beside the main thread that never holds up the end of a run: daemon threads, and futures for what they do.

The executors of the standard library are joined when the interpreter ends, so a reward that hangs would keep an
interrupted run from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

CLOSING_SECONDS = 2.0  # how long coroutines get to clean up once they are cancelled


class BackgroundThread:
    """One daemon thread that runs what is submitted, in order; it starts with the first call."""

    def __init__(self, name: str):
        self.name = name
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Queue a call; its future holds what it returns or raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._queue,), name=self.name, daemon=True)
            self._thread.start()
        future: Future[Any] = Future()
        self._queue.put((future, call))
        return future

    def close(self) -> None:
        """Let the thread end once it has done what is queued; a later call starts another one."""
        if self._thread is not None:
            self._queue.put(None)
            self._queue, self._thread = queue.SimpleQueue(), None

    @staticmethod
    def _run(jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
        while (job := jobs.get()) is not None:
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # not swallowed: the future raises it where it is asked for
                    future.set_exception(error)


class BackgroundLoop:
    """One event loop on a daemon thread: clients keep their connections, and it works where a loop already runs."""

    def __init__(self, name: str):
        self.name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Start a coroutine; its future holds what it returns or raises."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run, args=(self._loop,), name=self.name, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Cancel what is under way and end the loop; a later call starts another one."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        ended = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        try:
            ended.result(CLOSING_SECONDS)
        except TimeoutError:
            return  # a coroutine that blocks its loop: nothing can be done but to leave its daemon thread behind
        loop.call_soon_threadsafe(loop.stop)

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
