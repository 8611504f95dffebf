"""The host's ends of a check's pipes: all fed and read at once, bounded, by one thread."""

from __future__ import annotations

import json
import math
import os
import select
import socket
import time
from typing import Any


class Talk:
    """Feeds some pipes and reads others, all at once; what comes beyond a pipe's limit is read and dropped."""

    def __init__(self, unsent: dict[int, bytes], limits: dict[int, int]):
        self.read = {descriptor: bytearray() for descriptor in limits}
        self.late = False
        self._limits = limits
        self._unsent = {descriptor: memoryview(data) for descriptor, data in unsent.items()}
        self._open = [*unsent, *limits]
        self._poll = select.poll()
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLOUT if descriptor in unsent else select.POLLIN)

    def until_report(self, control: socket.socket, deadline: float) -> dict[str, Any] | None:
        """Talk until the warm parent reports; `None` if it has died, or (`late`) does not report in time."""
        self._poll.register(control, select.POLLIN)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self.late = True
                return None
            for descriptor, _ in self._poll.poll(math.ceil(1000 * remaining)):
                if descriptor == control.fileno():
                    self._poll.unregister(control)
                    try:
                        message = control.recv(4096)
                    except OSError:
                        return None
                    return json.loads(message) if message else None
                self._move(descriptor)

    def drain(self, seconds: float) -> None:
        """Read what is still in the pipes. Every writer has ended, so this is short."""
        deadline = time.monotonic() + seconds
        for descriptor in self._limits:
            while descriptor in self._open and time.monotonic() < deadline:
                if not self._move(descriptor):
                    break

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def _move(self, descriptor: int) -> bool:
        """Some bytes in or out; whether there may be more."""
        try:
            if descriptor in self._unsent:
                rest = self._unsent[descriptor]
                rest = self._unsent[descriptor] = rest[os.write(descriptor, rest) :]
                done = not rest
            else:
                data = os.read(descriptor, 1 << 16)
                kept = self.read[descriptor]
                kept += data[: max(0, self._limits[descriptor] - len(kept))]
                done = not data
        except BlockingIOError:
            return False
        except OSError:  # nobody reads any more
            done = True
        if done:
            self._poll.unregister(descriptor)
            self._open.remove(descriptor)
            os.close(descriptor)
        return not done
