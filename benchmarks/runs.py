"""Many trainings, each a process of its own, that can be interrupted and go on where they were."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Run = tuple[str, int]  # arm, seed


def folder_of(output_dir: Path, name: str, seed: int) -> Path:
    """Where a run leaves its results."""
    words = "".join(letter if letter.isalnum() or letter == "." else " " for letter in name).split()
    return output_dir / f"{'-'.join(words).lower()}-{seed}"


def finish(runs: Sequence[Run], command_of: Callable[[str, int], list[str]], output_dir: Path, *, jobs: int) -> bool:
    """Make these runs, so many at a time, each with its output in `log.txt`.

    Args:
        runs (`Sequence[tuple[str, int]]`): arms and seeds.
        command_of: the command of a run.
        output_dir (`Path`): holds a folder for each run.
        jobs (`int`): runs at the same time.

    Returns:
        `bool`: whether all of them succeeded.
    """
    waiting = list(runs)
    running: dict[subprocess.Popen[bytes], Run] = {}
    failed = False
    while waiting or running:
        for process in [process for process in running if process.poll() is not None]:
            name, seed = running.pop(process)
            failed |= process.returncode != 0
            said = f"{time.strftime('%X')} {name}, seed {seed}: exit {process.returncode}"
            if process.returncode:
                said += f", see {folder_of(output_dir, name, seed) / 'log.txt'}"
            print(said, file=sys.stderr, flush=True)
        while waiting and len(running) < jobs:
            name, seed = waiting.pop(0)
            folder = folder_of(output_dir, name, seed)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "log.txt").open("ab") as log:
                running[subprocess.Popen(command_of(name, seed), stdout=log, stderr=subprocess.STDOUT)] = (name, seed)
        time.sleep(1)
    return not failed
