"""Work on daemon threads, with futures for the results.

The interpreter joins the standard library's executors when it ends, so a hanging reward would keep an interrupted run
alive; it does not wait for daemon threads.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

CLOSING_SECONDS = 2.0  # time for cancelled coroutines to clean up


class BackgroundThread:
    """One daemon thread that runs submitted calls in order; it starts with the first call."""

    def __init__(self, name: str):
        self.name = name
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Queue a call; the future holds its result or its error."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._queue,), name=self.name, daemon=True)
            self._thread.start()
        future: Future[Any] = Future()
        self._queue.put((future, call))
        return future

    def close(self) -> None:
        """Let the thread end after the queued calls; a later call starts another thread."""
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
                except BaseException as error:  # `future.result()` raises it again
                    future.set_exception(error)


class BackgroundLoop:
    """One event loop on a daemon thread. Clients keep their connections between calls, and the main thread may run an
    event loop of its own.
    """

    def __init__(self, name: str):
        self.name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Start a coroutine; the future holds its result or its error."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run, args=(self._loop,), name=self.name, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Cancel the running coroutines and end the loop; a later call starts another loop."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        ended = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        try:
            ended.result(CLOSING_SECONDS)
        except TimeoutError:
            return  # a coroutine blocks the loop; its daemon thread ends with the interpreter
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
