"""Sampling with `model.generate`: what an engine and the policy under training have in common, and the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from ..errors import ConfigurationError
from .jobs import PLAIN, Job, Sampled, as_list, checked_tokenizer, mixed

GREEDY = {"top_p": 1.0, "top_k": 50}  # transformers' defaults: it warns of any other beside a greedy search


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
        ConfigurationError: the model cannot be loaded or is no causal one, its tokenizer has no EOS, an empty stop
            string.
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
        if "" in stop:
            raise ConfigurationError("stop must be texts of at least one character, got an empty one")
        name = model if isinstance(model, str) else model.name_or_path
        missing: list[str] = []
        try:
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(name)
            if isinstance(model, str):
                loader: Any = AutoModelForCausalLM
                loaded, loading = loader.from_pretrained(model, dtype="auto", output_loading_info=True)
                missing = sorted(loading["missing_keys"])
                model = loaded.to("cuda" if torch.cuda.is_available() else "cpu")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot load the model {name!r}: {error}") from error
        if missing:
            raise ConfigurationError(
                f"{name} is no causal language model: it has no weights for {', '.join(missing[:3])}"
            )
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
        processors = LogitsProcessorList()
        if not greedy:
            processors.append(RowTemperature([job.temperature for job in jobs], config.num_beams or 1, device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(mixed([job.seed for job in jobs]))
            output = model.generate(
                input_ids=input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=config,
                logits_processor=processors,
                **({"tokenizer": self.tokenizer} if self.stop_strings else {}),
            )
        return self._cut([job.prompt_ids for job in jobs], output[:, width:].cpu().numpy(), np.array(limits))

    def _cut(
        self, prompts_B: Sequence[Sequence[int]], token_ids_BT: np.ndarray, limits_B: np.ndarray
    ) -> list[Sampled]:
        """Each row up to its end, or its own limit; what follows is padding, or nobody's."""
        is_eos_BT = np.isin(token_ids_BT, self.eos_token_ids)
        ends_B = np.where(is_eos_BT.any(axis=1), is_eos_BT.argmax(axis=1) + 1, token_ids_BT.shape[1] + 1)
        has_eos_B = ends_B <= np.minimum(limits_B, token_ids_BT.shape[1])
        ends_B = np.minimum(ends_B, limits_B)
        rows = [row[:end].tolist() for row, end in zip(token_ids_BT, ends_B, strict=True)]
        return [
            Sampled(row, True) if has_eos else self._cut_at_stop_string(prompt, row)
            for prompt, row, has_eos in zip(prompts_B, rows, np.asarray(has_eos_B).tolist(), strict=True)
        ]

    def _cut_at_stop_string(self, prompt_ids: Sequence[int], row: list[int]) -> Sampled:
        """A row without EOS: cut off at the length limit, or ended by a stop string, after which it was padded.

        As transformers sees it, a stop string may begin in the prompt.
        """
        if not self.stop_strings:
            return Sampled(row, False)
        while row and row[-1] == self.pad_token_id:
            row.pop()
        # The last token may hold more than the stop string's end, so look for it anywhere: any earlier one would
        # have ended the row before.
        begun = list(prompt_ids[-max(map(len, self.stop_strings)) :])
        border, text = len(self.tokenizer.decode(begun)), self.tokenizer.decode([*begun, *row])
        if any(text.find(stop, max(0, border - len(stop) + 1)) >= 0 for stop in self.stop_strings):
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


def eos_token_ids(tokenizer: Any, model: Any) -> list[int]:
    """Every token that ends a response: the tokenizer's EOS, first, and whatever else the model declares."""
    declared = as_list(model.generation_config.eos_token_id)
    return [tokenizer.eos_token_id, *(token for token in declared if token != tokenizer.eos_token_id)]
