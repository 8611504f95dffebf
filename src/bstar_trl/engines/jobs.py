"""What every engine works on: jobs and samples; and the small things they agree about: prompts, ends, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from trl.data_utils import is_conversational

from ..errors import ConfigurationError

# Whatever the model's own generation config says: the policy's distribution at a temperature, and nothing else.
PLAIN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class Job:
    """One sample to draw.

    Args:
        prompt_ids (`Sequence[int]`): what it continues: the prompt's tokens, and those of a response begun already.
        temperature (`float`): 0 means greedy.
        seed (`int`): below 2^63.
        max_new_tokens (`int`, *optional*): its length at most, EOS included; None: what its engine was made with.
    """

    prompt_ids: Sequence[int]
    temperature: float
    seed: int
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Sampled:
    """What an engine returns for a job: `ended` where EOS or a stop string ended it (EOS then stands last)."""

    token_ids: list[int]
    ended: bool


class Engine(Protocol):
    """Runs jobs chunk by chunk; yields the positions of a chunk's jobs and what was sampled for them."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]: ...


class TextEngine(Engine, Protocol):
    """An engine that stands by itself: it knows its tokenizer, and its stop strings."""

    tokenizer: Any
    stop: tuple[str, ...]
    max_length: int | None  # tokens of prompt and response together, None where the model declares no limit


def prompt_ids(tokenizer: Any, prompts: Sequence[Any], **template_kwargs: Any) -> list[list[int]]:
    """Token ids of prompts: texts as they stand, messages through the chat template."""
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
    """The tokenizer, which has an EOS token.

    Raises:
        ConfigurationError: it has none.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("the tokenizer needs an EOS token: without one no response can end by itself")
    return tokenizer


def as_list(token_ids: int | Sequence[int] | None) -> list[int]:
    """What transformers' configs hold for one token, several or none, as a list."""
    return [] if token_ids is None else [token_ids] if isinstance(token_ids, int) else list(token_ids)


def mixed(numbers: Iterable[int]) -> int:
    """One number of 32 bits that depends on all of these."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1)[0])


def job_seed(*numbers: int) -> int:
    """The seed of a job from what tells it from others."""
    return mixed(numbers) >> 1  # vLLM takes 63 bits, its HTTP server 32
