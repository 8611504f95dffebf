"""Which jobs are sampled together."""

from __future__ import annotations

import itertools
import random

import pytest

from bstar_trl.engines import Job
from bstar_trl.engines.chunks import halves, make_chunks


def make_jobs(lengths, temperature=1.0, max_new_tokens=None):
    return [Job([length % 7] * length, temperature, seed, max_new_tokens) for seed, length in enumerate(lengths)]


def test_every_job_is_in_one_chunk_and_likes_are_together():
    lengths = [random.Random(0).choice([5, 6, 9]) for _ in range(200)]
    jobs = make_jobs(lengths) + make_jobs([5, 9, 9], temperature=0.0)
    chunks = make_chunks(jobs, 10, None, 32)
    assert sorted(place for chunk in chunks for place in chunk) == list(range(203))
    assert all(len(chunk) <= 32 for chunk in chunks)
    assert all(len({jobs[place].temperature for place in chunk}) == 1 for chunk in chunks)
    ordered = [len(jobs[place].prompt_ids) for chunk in chunks for place in chunk if jobs[place].temperature]
    assert ordered == sorted(ordered)


def test_equal_prompts_are_neighbours():
    jobs = [Job([index % 5, 9], 1.0, index) for index in range(50)]
    (chunk,) = make_chunks(jobs, 10, None, 64)
    prompts = [jobs[place].prompt_ids for place in chunk]
    assert sum(one != other for one, other in itertools.pairwise(prompts)) == 4


def test_chunks_of_long_prompts_have_fewer_rows():
    """96 jobs of 10 + 10 tokens and 32 of 190 + 10: 65 on average, so 32 of them may take 32 * 65 * 1.5 = 3,120."""
    chunks = make_chunks(make_jobs([10] * 96 + [190] * 32), 10, None, 32)
    assert [len(chunk) for chunk in chunks] == [32, 32, 32, 15, 15, 2]


def test_prompts_of_nearly_equal_length_make_full_chunks():
    chunks = make_chunks(make_jobs(range(80, 121)), 40, None, 8)
    assert [len(chunk) for chunk in chunks] == [8, 8, 8, 8, 8, 1]


def test_rows_that_the_context_cuts_off_do_not_go_on_longer_than_others():
    jobs = make_jobs([10, 10, 95, 95, 97])
    assert make_chunks(jobs, 10, 100, 8) == [[0, 1], [4], [2, 3]]
    assert make_chunks(make_jobs([120]), 10, 100, 8) == [[0]]  # one token is all that it may have


@pytest.mark.parametrize(("count", "parts"), [(1, [1]), (2, [1, 1]), (5, [3, 2])])
def test_halves(count, parts):
    chunk = list(range(count))
    assert [len(part) for part in halves(chunk)] == parts
    assert [place for part in halves(chunk) for place in part] == chunk


def test_no_jobs_make_no_chunks():
    assert make_chunks([], 10, 100, 8) == []
