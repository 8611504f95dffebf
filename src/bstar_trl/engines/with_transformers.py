"""Sampling with `model.generate`: `TransformersEngine`, and `ChunkedGenerate`, which training uses too."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList

from ..errors import ConfigurationError, OutOfMemoryError
from .chunks import halves, length_limits, make_chunks
from .decoding import DecodingLoop, takes_the_loop
from .jobs import UNFILTERED, Job, Sample, as_list, checked_stop, checked_tokenizer, mixed
from .memory import free_cached_memory, is_out_of_memory
from .merging import as_merge, merged
from .padding import pad_rows
from .processors import RowTemperature
from .stops import StopStrings

logger = logging.getLogger(__name__)
# transformers' defaults; it warns about any other value in a greedy search
GREEDY_DEFAULTS = {"top_p": 1.0, "top_k": 50}


class TransformersEngine:
    """Samples with `model.generate` on one device, in chunks of jobs with prompts of similar length.

    A job's sample depends on the job alone: every row draws from a generator of its own. (Kernels of low precision may
    round differently in chunks of another size.)

    Args:
        model (`str` or `PreTrainedModel`): a Hub id or a folder, loaded in its own precision onto the GPU if there is
            one; or a loaded model, which stays on its device.
        tokenizer (*optional*): None: the tokenizer saved with the model.
        batch_size (`int`): samples drawn at once.
        stop (`Sequence[str]`): strings that end a response, as EOS does.
        max_new_tokens (`int`): largest length of a sample whose job sets none.
        merge_for_sampling (`str`): `"always"` samples a model with adapters from a copy in which they are merged,
            `"auto"` where they can be merged and memory allows it, `"never"` in no case. The model itself stays as it
            is.

    Raises:
        ConfigurationError: the model cannot be loaded or is not a causal language model, its tokenizer has no EOS, a
            stop string is empty, or another argument is outside its range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        batch_size: int = 128,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
        merge_for_sampling: str | bool = "auto",
    ):
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, got {batch_size}")
        self.merge_for_sampling = as_merge(merge_for_sampling)
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
        if not jobs:
            return
        was_training = self.model.training
        self.model.eval()
        try:
            with merged(self.model, self.merge_for_sampling) as model:
                chunks = self._chunked.run(model, jobs, self.batch_size)
                del model  # so that a copy is gone once the chunks are
                yield from chunks
        finally:
            self.model.train(was_training)


class ChunkedGenerate:
    """Runs jobs through `model.generate`, chunk by chunk: each row has its own temperature, seed and length limit.

    The rows of a chunk are decoded by [`DecodingLoop`]. What it does not do goes through `generate`'s own loops:
    beams, assisted decoding, caches of a fixed size, guidance, prompt tuning. There the rows of a chunk share a
    generator.

    Args:
        tokenizer: has EOS; rows are padded with its PAD token, or with EOS if it has no PAD.
        kwargs (`Mapping`): fields of `GenerationConfig` that hold for every job, `max_new_tokens` among them.
        eos_token_ids (`Sequence[int]`): every token that ends a response.
        max_length (`int`, *optional*): tokens of prompt and response together, where a response is cut off.
        size_option (`str`): what the user calls the chunk size; for messages.
        autocast (`Callable`): gives a context in which the model is called, of mixed precision. It is entered once per
            chunk, so that trainable weights in fp32 are cast once per chunk and not at every step.
    """

    def __init__(
        self,
        tokenizer: Any,
        kwargs: Mapping[str, Any],
        eos_token_ids: Sequence[int],
        max_length: int | None = None,
        *,
        size_option: str = "batch_size",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.size_option = size_option
        self.autocast = autocast
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = tokenizer.eos_token_id if pad is None else pad
        self.kwargs: dict[str, Any] = {"pad_token_id": self.pad_token_id, "eos_token_id": list(eos_token_ids)} | dict(
            kwargs
        )
        self.kwargs |= {"num_return_sequences": 1, "return_dict_in_generate": False}
        self.eos_token_ids = list(dict.fromkeys([*eos_token_ids, *as_list(self.kwargs["eos_token_id"])]))
        stop = self.kwargs.pop("stop_strings", None) or []
        self.stop_strings: list[str] = [stop] if isinstance(stop, str) else list(stop)

    def run(self, model: Any, jobs: Sequence[Job], chunk_size: int) -> Iterator[tuple[list[int], list[Sample]]]:
        """Sample chunk by chunk; jobs of different temperatures share a chunk.

        Raises:
            OutOfMemoryError: a chunk of half the size does not fit into the device's memory either.
            SamplingError: the model's logits are NaN or infinite.
        """
        chunks = deque(make_chunks(jobs, self._longest, self.max_length, chunk_size))
        halved = False
        while chunks:
            samples = self._attempt(model, [jobs[index] for index in chunks[0]], last=halved or len(chunks[0]) == 1)
            if samples is not None:
                yield chunks.popleft(), samples
                continue
            free_cached_memory(model.device)
            halved = True
            logger.warning(
                "A chunk of %d responses does not fit into memory, so chunks are halved from here on: lower %s.",
                len(chunks[0]),
                self.size_option,
            )
            chunks = deque(part for chunk in chunks for part in halves(chunk))

    def _attempt(self, model: Any, jobs: Sequence[Job], *, last: bool) -> list[Sample] | None:
        """The samples of a chunk; `None`: out of memory, and smaller chunks may help.

        The error is handled here so that nothing holds the failed attempt's tensors when the next one begins.
        """
        try:
            return self._generate(model, jobs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if last:
                longest = max(length_limits(jobs, self._longest, self.max_length))
                raise OutOfMemoryError(
                    f"{len(jobs)} responses of up to {longest} tokens to prompts of up to "
                    f"{max(len(job.prompt_ids) for job in jobs)} do not fit into memory together: lower "
                    f"{self.size_option} or the length of responses"
                ) from error
            return None

    @property
    def _longest(self) -> int:
        return int(self.kwargs["max_new_tokens"])

    def _generate(self, model: Any, jobs: Sequence[Job]) -> list[Sample]:
        greedy = jobs[0].temperature == 0
        limits = length_limits(jobs, self._longest, self.max_length)
        fixed: dict[str, Any] = {"do_sample": not greedy, "temperature": 1.0, "max_new_tokens": max(limits)}
        fixed |= GREEDY_DEFAULTS if greedy else {}
        config = GenerationConfig(**(self.kwargs | fixed), disable_compile=True)
        temperature = (
            None if greedy else RowTemperature([job.temperature for job in jobs], config.num_beams or 1, model.device)
        )
        decode = self._decode if takes_the_loop(config, model) else self._decode_by_transformers
        return decode(model, config, jobs, limits, temperature)

    def _decode(
        self,
        model: Any,
        config: GenerationConfig,
        jobs: Sequence[Job],
        limits: Sequence[int],
        temperature: RowTemperature | None,
    ) -> list[Sample]:
        prompts = list(dict.fromkeys(tuple(job.prompt_ids) for job in jobs))  # each once
        places = {prompt: place for place, prompt in enumerate(prompts)}
        loop = DecodingLoop(
            [places[tuple(job.prompt_ids)] for job in jobs],
            limits,
            self.eos_token_ids,
            seeds=None if temperature is None else [job.seed for job in jobs],
            temperature=temperature,
            stops=StopStrings(self.tokenizer, self.stop_strings, prompts) if self.stop_strings else None,
            rooms=None if self.max_length is None else [self.max_length - len(job.prompt_ids) for job in jobs],
        )
        self._call(model, config, prompts, temperature, custom_generate=loop)
        return loop.samples()

    def _decode_by_transformers(
        self,
        model: Any,
        config: GenerationConfig,
        jobs: Sequence[Job],
        limits: Sequence[int],
        temperature: RowTemperature | None,
    ) -> list[Sample]:
        prompts = [job.prompt_ids for job in jobs]
        stopping: dict[str, Any] = {}
        if self.stop_strings:
            config.stop_strings = self.stop_strings
            stopping["tokenizer"] = self.tokenizer
        device = model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(mixed([job.seed for job in jobs]))
            output = self._call(model, config, prompts, temperature, **stopping)
        token_ids_BT = output[:, max(map(len, prompts)) :].cpu().numpy()
        return self._cut(prompts, token_ids_BT, np.array(limits))

    def _call(
        self,
        model: Any,
        config: GenerationConfig,
        prompts: Sequence[Sequence[int]],
        temperature: RowTemperature | None,
        **options: Any,
    ) -> torch.Tensor:
        input_ids_BT, mask_BT = pad_rows(prompts, self.pad_token_id, "left")
        with self.autocast():
            output: torch.Tensor = model.generate(
                input_ids=input_ids_BT.to(model.device),
                attention_mask=mask_BT.to(model.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([] if temperature is None else [temperature]),
                **options,
            )
        return output

    def _cut(self, prompts: Sequence[Sequence[int]], token_ids_BT: np.ndarray, limits_B: np.ndarray) -> list[Sample]:
        """Each row up to its end or its own limit; the tokens after that are padding, or past the limit."""
        is_eos_BT = np.isin(token_ids_BT, self.eos_token_ids)
        ends_B = np.where(is_eos_BT.any(axis=1), is_eos_BT.argmax(axis=1) + 1, token_ids_BT.shape[1] + 1)
        has_eos_B = ends_B <= np.minimum(limits_B, token_ids_BT.shape[1])
        ends_B = np.minimum(ends_B, limits_B)
        stops = StopStrings(self.tokenizer, self.stop_strings, prompts) if self.stop_strings else None
        samples = []
        for place, (tokens, end, has_eos) in enumerate(zip(token_ids_BT, ends_B, has_eos_B.tolist(), strict=True)):
            row = tokens[:end].tolist()
            if not has_eos and stops is not None:
                while row and row[-1] == self.pad_token_id:
                    row.pop()
                if stops.end(place, row):
                    row, has_eos = [*row, self.tokenizer.eos_token_id], True
            samples.append(Sample(row, has_eos))
        return samples


def context_length(model: Any) -> int | None:
    """Tokens of prompt and response together that a model declares to take; `None`: it declares no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def eos_token_ids(tokenizer: Any, model: Any) -> list[int]:
    """Every token that ends a response: first the tokenizer's EOS, then the others that the model declares."""
    declared = as_list(model.generation_config.eos_token_id)
    return [tokenizer.eos_token_id, *(token for token in declared if token != tokenizer.eos_token_id)]
