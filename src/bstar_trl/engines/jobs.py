"""Jobs and samples, which every engine works on, and what all engines share: prompts, EOS tokens, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from trl.data_utils import is_conversational

from ..errors import ConfigurationError

# Overrides the model's own generation config, so that only the temperature changes the policy's distribution.
UNFILTERED = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class Job:
    """One sample to draw.

    Args:
        prompt_ids (`Sequence[int]`): the tokens to continue: the prompt, and the beginning of a response if there is
            one.
        temperature (`float`): 0 means greedy.
        seed (`int`): below 2^63.
        max_new_tokens (`int`, *optional*): largest length of the sample, its EOS included, but not one that follows a
            stop string; None: the engine's default.
    """

    prompt_ids: Sequence[int]
    temperature: float
    seed: int
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Sample:
    """An engine's result for one job. `ended`: EOS or a stop string ended the sample; its last token is then EOS."""

    token_ids: list[int]
    ended: bool


class Engine(Protocol):
    """Runs jobs chunk by chunk; yields the positions of a chunk's jobs and their samples."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sample]]]: ...


class TextEngine(Engine, Protocol):
    """An engine with its own tokenizer and stop strings, so that its samples can be decoded."""

    tokenizer: Any
    stop: tuple[str, ...]
    max_length: int | None  # tokens of prompt and response together, None where the model declares no limit


def prompt_ids(tokenizer: Any, prompts: Sequence[Any], **template_kwargs: Any) -> list[list[int]]:
    """Token ids of prompts: texts unchanged, messages through the chat template."""
    if not prompts:
        return []
    if is_conversational({"prompt": prompts[0]}):
        return [
            tokenizer.apply_chat_template(
                list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True, **template_kwargs
            )["input_ids"]
            for prompt in prompts
        ]
    return list(tokenizer(text=list(prompts))["input_ids"])


def checked_tokenizer(tokenizer: Any) -> Any:
    """The same tokenizer; one without an EOS token raises `ConfigurationError`."""
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("the tokenizer needs an EOS token: without one no response can end by itself")
    return tokenizer


def checked_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """The same stop strings; an empty one raises `ConfigurationError`."""
    if "" in stop:
        raise ConfigurationError("stop must be texts of at least one character, got an empty one")
    return tuple(stop)


def as_list(token_ids: int | Sequence[int] | None) -> list[int]:
    """Token ids as a list; transformers' configs hold one id, several, or None."""
    return [] if token_ids is None else [token_ids] if isinstance(token_ids, int) else list(token_ids)


def mixed(numbers: Iterable[int]) -> int:
    """A 32-bit number that depends on all of `numbers`."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1)[0])


def job_seed(*numbers: int) -> int:
    """A job's seed from the numbers that identify the job."""
    return mixed(numbers) >> 1  # 31 bits: vLLM takes signed 64-bit seeds, its HTTP server signed 32-bit ones
