"""Which jobs are sampled together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .jobs import Job

SPREAD = 1.5  # tokens of a chunk, as a multiple of what `chunk_size` jobs of average length have


def length_limits(jobs: Sequence[Job], longest: int, max_length: int | None) -> list[int]:
    """The largest length of each job's sample.

    Args:
        jobs (`Sequence[Job]`): all jobs.
        longest (`int`): of a sample whose job sets no length.
        max_length (`int`, *optional*): tokens of prompt and response together.
    """
    room = math.inf if max_length is None else max_length
    return [int(min(job.max_new_tokens or longest, max(1, room - len(job.prompt_ids)))) for job in jobs]


def make_chunks(jobs: Sequence[Job], longest: int, max_length: int | None, chunk_size: int) -> list[list[int]]:
    """The places of each chunk's jobs.

    Greedy jobs have chunks of their own. Prompts of similar length share a chunk, and equal prompts are neighbours. A
    chunk has at most `chunk_size` jobs, and fewer where their prompts are much longer than the others': of several
    jobs, padded, it holds at most one and a half times as many tokens as `chunk_size` jobs of average length.

    A model may have no embedding for a position behind its context. So rows that the context cuts off share a chunk
    with their likes only: no other goes on behind them.

    Args:
        chunk_size (`int`): largest number of jobs in a chunk; other arguments as of [`length_limits`].
    """
    limits = length_limits(jobs, longest, max_length)
    lengths = [len(job.prompt_ids) + limit for job, limit in zip(jobs, limits, strict=True)]
    most_tokens = SPREAD * chunk_size * sum(lengths) / max(1, len(jobs))
    groups: dict[tuple[bool, int], list[int]] = {}
    for place, (job, limit) in enumerate(zip(jobs, limits, strict=True)):
        is_cut = limit < (job.max_new_tokens or longest)
        groups.setdefault((job.temperature == 0, limit if is_cut else 0), []).append(place)
    first: dict[tuple[int, ...], int] = {}
    for place, job in enumerate(jobs):
        first.setdefault(tuple(job.prompt_ids), place)
    chunks: list[list[int]] = []
    for _, places in sorted(groups.items()):
        chunk: list[int] = []
        tokens = 0  # of the longest job of the chunk
        # `sorted` is stable: otherwise the jobs stay in their order.
        for place in sorted(
            places, key=lambda place: (len(jobs[place].prompt_ids), first[tuple(jobs[place].prompt_ids)])
        ):
            tokens = max(tokens, lengths[place])
            if chunk and (len(chunk) == chunk_size or tokens * (len(chunk) + 1) > most_tokens):
                chunks.append(chunk)
                chunk, tokens = [], lengths[place]
            chunk.append(place)
        chunks.append(chunk)
    return chunks


def halves(chunk: list[int]) -> list[list[int]]:
    """The two halves of a chunk; a chunk of one job stays as it is."""
    middle = (len(chunk) + 1) // 2
    return [part for part in (chunk[:middle], chunk[middle:]) if part]
