"""Sampling without a trainer: a list of jobs in, samples out, with transformers or vLLM.

The pieces that sampling from a policy under training needs too (padding, a temperature of each row's own, where a
response ends) live here, and `generation.py` builds on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from trl.data_utils import is_conversational

from .errors import ConfigurationError, MissingDependencyError

GREEDY = {"top_p": 1.0, "top_k": 50}  # transformers' defaults: it warns of any other beside a greedy search
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


class TransformersEngine:
    """`model.generate` on one device, in chunks of jobs of like length.

    Equal jobs give equal samples as long as `batch_size` is the same: a chunk's rows share a seeded generator.

    Args:
        model (`str` or `PreTrainedModel`): an id or a folder, loaded in its own precision onto the GPU if there is
            one; or the model itself, which stays where it is.
        tokenizer (*optional*): None: the one that stands beside the model.
        batch_size (`int`): samples drawn at once.
        stop (`Sequence[str]`): strings that end a response, beside EOS.
        max_new_tokens (`int`): length of a sample at most, where its job does not say.

    Raises:
        ConfigurationError: the model cannot be loaded, or its tokenizer has no EOS.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        batch_size: int = 128,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
    ):
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, got {batch_size}")
        name = model if isinstance(model, str) else model.name_or_path
        try:
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(name)
            if isinstance(model, str):
                loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
                model = loaded.to("cuda" if torch.cuda.is_available() else "cpu")
        except OSError as error:
            raise ConfigurationError(f"cannot load the model {name!r}: {error}") from error
        self.tokenizer = checked_tokenizer(tokenizer)
        self.model = model
        self.batch_size = batch_size
        self.stop = tuple(stop)
        self.max_length: int | None = getattr(model.config, "max_position_embeddings", None)
        kwargs = PLAIN | {"max_new_tokens": max_new_tokens} | ({"stop_strings": list(stop)} if stop else {})
        self._sampler = ModelSampler(self.tokenizer, kwargs, eos_token_ids(self.tokenizer, model))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]:
        """Samples, chunk by chunk; the model's mode and the global random state are left as they were."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield from self._sampler.run(self.model, jobs, self.batch_size)
        finally:
            self.model.train(was_training)


class VLLMEngine:
    """vLLM in this process. Prompts that begin alike share their prefill (automatic prefix caching).

    Args:
        model (`str`): an id or a folder.
        stop (`Sequence[str]`): strings that end a response, beside EOS.
        batch_size (`int`): jobs handed over at once; vLLM decides itself how many of them run together.
        max_new_tokens (`int`): length of a sample at most, where its job does not say.
        **llm_kwargs: passed on to `vllm.LLM`: `max_model_len`, `gpu_memory_utilization`, `tensor_parallel_size`, ...

    Raises:
        MissingDependencyError: vLLM is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        stop: Sequence[str] = (),
        batch_size: int = 4096,
        max_new_tokens: int = 1024,
        **llm_kwargs: Any,
    ):
        try:
            from vllm import LLM
        except ImportError as error:
            raise MissingDependencyError(
                f"the vLLM engine needs vLLM, which cannot be imported ({error}): pip install 'bstar-trl[vllm]'"
            ) from error
        self._llm = LLM(model=model, **{"enable_prefix_caching": True, **llm_kwargs})
        self.tokenizer = checked_tokenizer(self._llm.get_tokenizer())
        self.stop = tuple(stop)
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.max_length: int | None = self._llm.llm_engine.model_config.max_model_len
        declared = self._llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id")
        self._eos_token_ids = [self.tokenizer.eos_token_id, *as_list(declared)]

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]:
        """Samples, `batch_size` jobs at a time."""
        from vllm import SamplingParams

        fixed: dict[str, Any] = PLAIN | ({"stop": list(self.stop)} if self.stop else {})
        for start in range(0, len(jobs), self.batch_size):
            chunk = jobs[start : start + self.batch_size]
            outputs = self._llm.generate(
                [{"prompt_token_ids": list(job.prompt_ids)} for job in chunk],
                sampling_params=[
                    SamplingParams(
                        temperature=job.temperature,
                        seed=job.seed,
                        max_tokens=job.max_new_tokens or self.max_new_tokens,
                        **fixed,
                    )
                    for job in chunk
                ],
                use_tqdm=False,
            )
            yield (
                list(range(start, start + len(chunk))),
                [
                    vllm_sample(item.outputs[0].token_ids, item.outputs[0].finish_reason, self._eos_token_ids)
                    for item in outputs
                ],
            )


class ModelSampler:
    """`model.generate` for jobs: padding on the left, a temperature and a length for each row, and where rows end.

    Args:
        tokenizer: with EOS; padding is done with its PAD, or else its EOS.
        kwargs (`Mapping`): fields of `GenerationConfig` that hold for every job, `max_new_tokens` among them.
        eos_token_ids (`Sequence[int]`): every token that ends a response.
    """

    def __init__(self, tokenizer: Any, kwargs: Mapping[str, Any], eos_token_ids: Sequence[int]):
        self.tokenizer = tokenizer
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = tokenizer.eos_token_id if pad is None else pad
        self.kwargs: dict[str, Any] = {"pad_token_id": self.pad_token_id, "eos_token_id": list(eos_token_ids)} | dict(
            kwargs
        )
        self.kwargs |= {"num_return_sequences": 1}
        self.eos_token_ids = [*eos_token_ids, *as_list(self.kwargs["eos_token_id"])]
        stop = self.kwargs.get("stop_strings") or []
        self.stop_strings: list[str] = [stop] if isinstance(stop, str) else list(stop)

    def run(self, model: Any, jobs: Sequence[Job], chunk_size: int) -> Iterator[tuple[list[int], list[Sampled]]]:
        """Chunk by chunk; several temperatures share a chunk."""
        for greedy in (False, True):
            positions = [index for index, job in enumerate(jobs) if (job.temperature == 0) == greedy]
            # Prompts of like length share a chunk; `sorted` is stable, so the order is the same every time.
            positions = sorted(positions, key=lambda index: len(jobs[index].prompt_ids))
            for start in range(0, len(positions), chunk_size):
                chunk = positions[start : start + chunk_size]
                yield chunk, self._generate(model, [jobs[index] for index in chunk], greedy)

    def _generate(self, model: Any, jobs: Sequence[Job], greedy: bool) -> list[Sampled]:
        device = model.device
        width = max(len(job.prompt_ids) for job in jobs)
        input_ids = torch.full((len(jobs), width), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, job in enumerate(jobs):
            input_ids[row, width - len(job.prompt_ids) :] = torch.tensor(job.prompt_ids)
            attention_mask[row, width - len(job.prompt_ids) :] = 1
        ours: dict[str, Any] = {"do_sample": not greedy, "temperature": 1.0} | (GREEDY if greedy else {})
        limits: list[int] = [job.max_new_tokens or self.kwargs["max_new_tokens"] for job in jobs]
        ours["max_new_tokens"] = max(limits)
        config = GenerationConfig(**(self.kwargs | ours), disable_compile=True)
        num_beams = config.num_beams or 1
        processors = LogitsProcessorList()
        if not greedy:
            processors.append(RowTemperature([job.temperature for job in jobs], num_beams, device))
        criteria = StoppingCriteriaList()
        if min(limits) < max(limits):
            criteria.append(RowLength([width + limit for limit in limits], num_beams, device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(mixed([job.seed for job in jobs]))
            output = model.generate(
                input_ids=input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=config,
                logits_processor=processors,
                stopping_criteria=criteria,
                **({"tokenizer": self.tokenizer} if self.stop_strings else {}),
            )
        return self._cut(output[:, width:].cpu().numpy(), np.array(limits))

    def _cut(self, token_ids_BT: np.ndarray, limits_B: np.ndarray) -> list[Sampled]:
        """Each row up to its end; what follows is padding."""
        is_eos_BT = np.isin(token_ids_BT, self.eos_token_ids)
        ends_B = np.where(is_eos_BT.any(axis=1), is_eos_BT.argmax(axis=1) + 1, token_ids_BT.shape[1] + 1)
        # What stands behind a row's own limit is padding, which may be EOS.
        has_eos_B = ends_B <= np.minimum(limits_B, token_ids_BT.shape[1])
        ends_B = np.minimum(ends_B, limits_B)
        rows = [row[:end].tolist() for row, end in zip(token_ids_BT, ends_B, strict=True)]
        return [
            Sampled(row, True) if has_eos else self._cut_at_stop_string(row)
            for row, has_eos in zip(rows, np.asarray(has_eos_B).tolist(), strict=True)
        ]

    def _cut_at_stop_string(self, row: list[int]) -> Sampled:
        """A row without EOS: cut off at the length limit, or ended by a stop string, after which it was padded."""
        if not self.stop_strings:
            return Sampled(row, False)
        while row and row[-1] == self.pad_token_id:
            row.pop()
        # The last token may hold more than the stop string's end, so look for it anywhere: any earlier one would
        # have ended the row before.
        if any(stop in self.tokenizer.decode(row) for stop in self.stop_strings):
            return Sampled([*row, self.tokenizer.eos_token_id], True)
        return Sampled(row, False)


class RowTemperature(LogitsProcessor):
    """Divides each row's logits by its own temperature, before top-k, top-p and min-p look at them.

    Beam sampling holds the beams of a row side by side.
    """

    def __init__(self, temperatures_B: Sequence[float], num_beams: int, device: torch.device):
        self.temperatures_R1 = torch.tensor(temperatures_B, device=device).repeat_interleave(num_beams)[:, None]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores / self.temperatures_R1.to(scores.dtype)


class RowLength(StoppingCriteria):
    """Ends each row at its own length, prompt and padding included."""

    def __init__(self, lengths_B: Sequence[int], num_beams: int, device: torch.device):
        self.lengths_R = torch.tensor(lengths_B, device=device).repeat_interleave(num_beams)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] >= self.lengths_R


def vllm_sample(token_ids: Sequence[int], finish_reason: str | None, eos_token_ids: Sequence[int]) -> Sampled:
    """What vLLM returned for a job; EOS is appended where a stop string, or a stop token that is none, ended it."""
    tokens, ended = list(token_ids), finish_reason == "stop"
    if ended and (not tokens or tokens[-1] not in eos_token_ids):
        tokens.append(eos_token_ids[0])
    return Sampled(tokens, ended)


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


def eos_token_ids(tokenizer: Any, model: Any) -> list[int]:
    """Every token that ends a response: the tokenizer's EOS, first, and whatever else the model declares."""
    declared = as_list(model.generation_config.eos_token_id)
    return [tokenizer.eos_token_id, *(token for token in declared if token != tokenizer.eos_token_id)]


def as_list(token_ids: int | Sequence[int] | None) -> list[int]:
    """What transformers' configs hold for one token, several or none, as a list."""
    return [] if token_ids is None else [token_ids] if isinstance(token_ids, int) else list(token_ids)


def mixed(numbers: Iterable[int]) -> int:
    """One number of 32 bits that depends on all of these."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1)[0])


def job_seed(*numbers: int) -> int:
    """The seed of a job from what tells it from others."""
    return mixed(numbers) >> 1  # vLLM takes 63 bits, its HTTP server 32
