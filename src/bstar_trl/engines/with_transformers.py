"""Sampling with `model.generate`: `TransformersEngine`, and `ChunkedGenerate`, which training uses too."""

from __future__ import annotations

import math
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
from .jobs import UNFILTERED, Job, Sample, as_list, checked_stop, checked_tokenizer, mixed
from .padding import pad_rows

# transformers' defaults; it warns about any other value in a greedy search
GREEDY_DEFAULTS = {"top_p": 1.0, "top_k": 50}


class TransformersEngine:
    """Samples with `model.generate` on one device, in chunks of jobs with prompts of similar length.

    Equal lists of jobs give equal samples as long as `batch_size` is the same: the rows of a chunk share one seeded
    generator.

    Args:
        model (`str` or `PreTrainedModel`): a Hub id or a folder, loaded in its own precision onto the GPU if there is
            one; or a loaded model, which stays on its device.
        tokenizer (*optional*): None: the tokenizer saved with the model.
        batch_size (`int`): samples drawn at once.
        stop (`Sequence[str]`): strings that end a response, as EOS does.
        max_new_tokens (`int`): largest length of a sample whose job sets none.

    Raises:
        ConfigurationError: the model cannot be loaded or is not a causal language model, its tokenizer has no EOS, or
            a stop string is empty.
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
        self.stop = checked_stop(stop)
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
        self.max_length = context_length(model)
        kwargs = UNFILTERED | {"max_new_tokens": max_new_tokens} | ({"stop_strings": list(stop)} if stop else {})
        self._chunked = ChunkedGenerate(self.tokenizer, kwargs, eos_token_ids(self.tokenizer, model), self.max_length)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sample]]]:
        """Sample chunk by chunk; the model's mode and the global random state do not change."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield from self._chunked.run(self.model, jobs, self.batch_size)
        finally:
            self.model.train(was_training)


class ChunkedGenerate:
    """Runs jobs through `model.generate`: pads prompts on the left, gives each row its own temperature and length
    limit, and cuts rows where their responses end.

    Args:
        tokenizer: has EOS; rows are padded with its PAD token, or with EOS if it has no PAD.
        kwargs (`Mapping`): fields of `GenerationConfig` that hold for every job, `max_new_tokens` among them.
        eos_token_ids (`Sequence[int]`): every token that ends a response.
        max_length (`int`, *optional*): tokens of prompt and response together, where a response is cut off.
    """

    def __init__(
        self,
        tokenizer: Any,
        kwargs: Mapping[str, Any],
        eos_token_ids: Sequence[int],
        max_length: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = tokenizer.eos_token_id if pad is None else pad
        self.kwargs: dict[str, Any] = {"pad_token_id": self.pad_token_id, "eos_token_id": list(eos_token_ids)} | dict(
            kwargs
        )
        self.kwargs |= {"num_return_sequences": 1}
        self.eos_token_ids = [*eos_token_ids, *as_list(self.kwargs["eos_token_id"])]
        stop = self.kwargs.get("stop_strings") or []
        self.stop_strings: list[str] = [stop] if isinstance(stop, str) else list(stop)

    def run(self, model: Any, jobs: Sequence[Job], chunk_size: int) -> Iterator[tuple[list[int], list[Sample]]]:
        """Sample chunk by chunk; jobs of different temperatures share a chunk."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for index, job in enumerate(jobs):
            # A model may have no embedding for a position behind its context. So no row of a chunk may go on longer
            # than the one that the context cuts off: such rows share a chunk with their likes only.
            is_cut = self._limit(job) < self._wanted(job)
            groups.setdefault((job.temperature == 0, self._limit(job) if is_cut else 0), []).append(index)
        for (greedy, _), positions in sorted(groups.items()):
            # Prompts of similar length share a chunk; `sorted` is stable, so the order is the same every time.
            positions = sorted(positions, key=lambda index: len(jobs[index].prompt_ids))
            for start in range(0, len(positions), chunk_size):
                chunk = positions[start : start + chunk_size]
                yield chunk, self._generate(model, [jobs[index] for index in chunk], greedy)

    def _wanted(self, job: Job) -> int:
        return job.max_new_tokens or self.kwargs["max_new_tokens"]

    def _limit(self, job: Job) -> int:
        room = math.inf if self.max_length is None else max(1, self.max_length - len(job.prompt_ids))
        return int(min(self._wanted(job), room))

    def _generate(self, model: Any, jobs: Sequence[Job], greedy: bool) -> list[Sample]:
        device = model.device
        input_ids_BT, mask_BT = pad_rows([job.prompt_ids for job in jobs], self.pad_token_id, "left")
        limits = [self._limit(job) for job in jobs]
        fixed: dict[str, Any] = {"do_sample": not greedy, "temperature": 1.0, "max_new_tokens": max(limits)}
        fixed |= GREEDY_DEFAULTS if greedy else {}
        config = GenerationConfig(**(self.kwargs | fixed), disable_compile=True)
        processors = LogitsProcessorList()
        if not greedy:
            processors.append(RowTemperature([job.temperature for job in jobs], config.num_beams or 1, device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(mixed([job.seed for job in jobs]))
            output = model.generate(
                input_ids=input_ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                generation_config=config,
                logits_processor=processors,
                **({"tokenizer": self.tokenizer} if self.stop_strings else {}),
            )
        token_ids_BT = output[:, input_ids_BT.shape[1] :].cpu().numpy()
        return self._cut([job.prompt_ids for job in jobs], token_ids_BT, np.array(limits))

    def _cut(self, prompts_B: Sequence[Sequence[int]], token_ids_BT: np.ndarray, limits_B: np.ndarray) -> list[Sample]:
        """Each row up to its end or its own limit; the tokens after that are padding, or past the limit."""
        is_eos_BT = np.isin(token_ids_BT, self.eos_token_ids)
        ends_B = np.where(is_eos_BT.any(axis=1), is_eos_BT.argmax(axis=1) + 1, token_ids_BT.shape[1] + 1)
        has_eos_B = ends_B <= np.minimum(limits_B, token_ids_BT.shape[1])
        ends_B = np.minimum(ends_B, limits_B)
        rows = [row[:end].tolist() for row, end in zip(token_ids_BT, ends_B, strict=True)]
        return [
            Sample(row, True) if has_eos else self._cut_at_stop_string(prompt, row)
            for prompt, row, has_eos in zip(prompts_B, rows, np.asarray(has_eos_B).tolist(), strict=True)
        ]

    def _cut_at_stop_string(self, prompt_ids: Sequence[int], row: list[int]) -> Sample:
        """The sample of a row without EOS: either the length limit cut it off, or a stop string ended it and padding
        follows. transformers also stops at a stop string that begins in the prompt.
        """
        if not self.stop_strings:
            return Sample(row, False)
        while row and row[-1] == self.pad_token_id:
            row.pop()
        # Characters may follow the stop string within the last token, so search the whole text. An earlier stop
        # string would have ended the row earlier.
        begun = list(prompt_ids[-max(map(len, self.stop_strings)) :])
        border, text = len(self.tokenizer.decode(begun)), self.tokenizer.decode([*begun, *row])
        if any(text.find(stop, max(0, border - len(stop) + 1)) >= 0 for stop in self.stop_strings):
            return Sample([*row, self.tokenizer.eos_token_id], True)
        return Sample(row, False)


class RowTemperature(LogitsProcessor):
    """Divides each row's logits by the row's temperature, before top-k, top-p and min-p filter them.

    In beam sampling the beams of a row are neighbours.
    """

    def __init__(self, temperatures_B: Sequence[float], num_beams: int, device: torch.device):
        self.temperatures_R1 = torch.tensor(temperatures_B, device=device).repeat_interleave(num_beams)[:, None]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores / self.temperatures_R1.to(scores.dtype)


def context_length(model: Any) -> int | None:
    """Tokens of prompt and response together that a model declares to take; `None`: it declares no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def eos_token_ids(tokenizer: Any, model: Any) -> list[int]:
    """Every token that ends a response: first the tokenizer's EOS, then the others that the model declares."""
    declared = as_list(model.generation_config.eos_token_id)
    return [tokenizer.eos_token_id, *(token for token in declared if token != tokenizer.eos_token_id)]
