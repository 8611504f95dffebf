"""What happens when memory runs out: in a process of its own, whose address space is limited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bstar_trl.engines.memory import free_memory, is_out_of_memory

HERE = Path(__file__).parent


def sample_in_little_memory(rows: int, new_tokens: int) -> tuple[str, str]:
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    words = [sys.executable, str(HERE / "out_of_memory.py"), str(rows), str(new_tokens)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    return done.stdout, done.stderr


# A row's cache takes 2 layers x 2 x 64 x 4 bytes = 1 KiB a token, and for a moment twice as much while it grows.
def test_a_chunk_that_does_not_fit_is_halved():
    out, err = sample_in_little_memory(5000, 130)
    assert out.splitlines()[-1] == "chunks: [2500, 2500]", err
    assert (
        "A chunk of 5000 responses does not fit into memory, so chunks are halved from here on: lower batch_size."
        in err
    )


def test_a_chunk_whose_half_does_not_fit_either_is_an_error():
    out, err = sample_in_little_memory(16_000, 130)
    assert out.splitlines()[-1].startswith(
        "error: 8000 responses of up to 130 tokens to prompts of up to 3 do not fit into memory"
    ), err
    assert "lower batch_size or the length of responses" in out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("probability tensor contains either `inf`, `nan` or element < 0"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, expected):
    assert is_out_of_memory(error) == expected


def test_free_memory_is_what_the_system_says():
    (line,) = [item for item in Path("/proc/meminfo").read_text().splitlines() if item.startswith("MemAvailable")]
    available = int(line.split()[1]) << 10
    assert free_memory(torch.device("cpu")) == pytest.approx(available, rel=0.2)
    assert free_memory(torch.device("meta")) is None
