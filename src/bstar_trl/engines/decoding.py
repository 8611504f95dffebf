"""The decoding loop: rows that have ended leave the batch, and every row draws from a generator of its own.

`model.generate` prepares the inputs, the cache, the logits processors and the stopping criteria, and then hands over
to the loop, which is its `custom_generate`. What the loop does differently from transformers' own:

- A prompt with several rows is computed once; its cache is copied for each of them.
- Rows that have ended leave the batch together with their cache, so a chunk costs what its rows need, not what its
  longest row needs.
- A token is found by inverting the cumulative distribution, with one number per row and step from the row's own
  seeded generator. So a row's sample does not depend on its neighbours, and the cost is a fraction of
  `torch.multinomial`'s, which takes longer than the model itself where the vocabulary is large and the model small.
- The cache grows in blocks instead of being copied at every step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
)
from transformers.generation import GenerationMode
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_managed_module

from ..errors import SamplingError
from .cache import can_drop_rows, keep_rows, make_roomy
from .jobs import Sample
from .processors import RowTemperature
from .stops import StopStrings

# Processors that look for tokens in a row, wherever they stand.
BY_CONTENT = (RepetitionPenaltyLogitsProcessor, NoRepeatNGramLogitsProcessor, SequenceBiasLogitsProcessor)
# Options for which something is kept for each row of `generate`'s inputs, with the values that do nothing.
PER_ROW: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (None, 1),
    "encoder_repetition_penalty": (None, 1),
    "encoder_no_repeat_ngram_size": (None, 0),
    "prefill_chunk_size": (None,),
}
DROPPED_AT = 1 / 8  # the share of ended rows at which they leave: leaving copies the cache of the others


def takes_the_loop(config: GenerationConfig, model: Any) -> bool:
    """Whether the loop decodes what this config asks for; `generate` has loops of its own for the rest.

    Those are: beams, assisted decoding; caches that have a fixed size, are moved to the CPU, or are switched off;
    prompts computed in chunks; processors that keep something for each row (guidance, SynthID's watermarks, those of
    `encoder_*`); prompt tuning and activated LoRAs; models with a `generate` of their own, and models that are sharded
    over processes.
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled one, whose `generate` this is
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if type(inner).generate is not GenerationMixin.generate or "generate" in vars(inner) | vars(model):
        return False
    full = copy.copy(model.generation_config)  # `generate` takes from it what the config leaves open
    vars(full).update({name: value for name, value in vars(config).items() if value is not None})
    if full.get_generation_mode() not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        return False
    if full.use_cache is False or full.cache_implementation not in (None, "dynamic", "dynamic_full"):
        return False
    if isinstance(full.watermarking_config, SynthIDTextWatermarkingConfig):
        return False
    if any(getattr(full, name, None) not in neutral for name, neutral in PER_ROW.items()):
        return False
    if isinstance(model, PeftModel) and any(
        item.is_prompt_learning or getattr(item, "alora_invocation_tokens", None)
        for item in model.peft_config.values()
    ):
        return False
    return not is_deepspeed_zero3_enabled() and not is_fsdp_managed_module(model)


class DecodingLoop:
    """Decodes one chunk; an object is used once, as the `custom_generate` of one call of `model.generate`.

    Args:
        prompt_of_row (`Sequence[int]`): for each row the place of its prompt among `generate`'s inputs.
        limits (`Sequence[int]`): largest length of each row's sample.
        eos_token_ids (`Sequence[int]`): every token that ends a row.
        seeds (`Sequence[int]`, *optional*): of the rows' generators; `None`: greedy.
        temperature (`RowTemperature`, *optional*): the processor that was given to `generate`, for all rows.
        stops (`StopStrings`, *optional*): strings that end a row.
        rooms (`Sequence[float]`, *optional*): tokens behind each row's prompt for which the model has positions.
    """

    def __init__(
        self,
        prompt_of_row: Sequence[int],
        limits: Sequence[int],
        eos_token_ids: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        temperature: RowTemperature | None = None,
        stops: StopStrings | None = None,
        rooms: Sequence[float] | None = None,
    ):
        self.prompt_of_row = list(prompt_of_row)
        self.limits_B = np.array(limits)
        self.eos_token_ids = list(eos_token_ids)
        self.numbers_BT = None if seeds is None else _numbers(seeds, limits)
        self.temperature = temperature
        self.stops = stops
        self.rooms_B = np.array([np.inf] * len(limits) if rooms is None else rooms)
        self.vocabulary = 0  # known with the first scores
        self.tokens_BT = np.zeros((len(limits), max(limits)), dtype=np.int64)
        self.lengths_B = np.zeros(len(limits), dtype=np.int64)
        self.stopped_B = np.zeros(len(limits), dtype=bool)  # by a stop string
        self.ended_B = np.zeros(len(limits), dtype=bool)  # by a stop string or EOS

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """Decode every row to its end, with what `model.generate` has prepared for the prompts (one row each).

        Returns:
            The prompts, unchanged: [`samples`] has what followed.
        """
        batch = _Batch(model, input_ids, model_kwargs, logits_processor)
        can_drop = can_drop_rows(batch.cache)
        places = torch.tensor(self.prompt_of_row, device=input_ids.device)
        if can_drop:
            batch.forward(is_first=True)
            make_roomy(batch.cache)
            batch.keep(places)
        else:
            batch.keep(places, with_cache=False)  # which is empty as yet
            batch.forward(is_first=True)
        alive_B, is_done_B = np.arange(len(self.ended_B)), np.zeros(len(self.ended_B), dtype=bool)
        for step in range(self.tokens_BT.shape[1]):
            scores_BV = batch.scores()
            self.vocabulary = scores_BV.shape[1]
            tokens_B = self._choose(scores_BV, alive_B, step)
            del scores_BV
            done_B = torch.from_numpy(is_done_B).to(tokens_B.device)
            batch.append(tokens_B.masked_fill(done_B, generation_config.pad_token_id))
            stopped_B = stopping_criteria(batch.input_ids, None)
            self._record(alive_B, is_done_B, step, tokens_B.cpu().numpy())
            is_done_B |= self.ended_B[alive_B] | (self.limits_B[alive_B] <= step + 1) | stopped_B.cpu().numpy()
            if is_done_B.all():
                break
            leave_now = is_done_B.mean() >= DROPPED_AT or (self.rooms_B[alive_B[is_done_B]] <= step + 1).any()
            if can_drop and leave_now:
                kept = np.flatnonzero(~is_done_B)
                alive_B, is_done_B = alive_B[kept], is_done_B[kept]
                rows = torch.from_numpy(kept).to(input_ids.device)
                batch.keep(rows)
                if self.temperature is not None:
                    self.temperature.keep(rows)
            batch.forward()
        return input_ids

    def samples(self) -> list[Sample]:
        """The rows' samples, once `generate` has returned."""
        rows = [tokens[:length].tolist() for tokens, length in zip(self.tokens_BT, self.lengths_B, strict=True)]
        for row, stopped in zip(rows, self.stopped_B.tolist(), strict=True):
            if stopped:
                row.append(self.eos_token_ids[0])
        return [Sample(row, ended) for row, ended in zip(rows, self.ended_B.tolist(), strict=True)]

    def _choose(self, scores_BV: torch.Tensor, alive_B: np.ndarray, step: int) -> torch.Tensor:
        if self.numbers_BT is None:
            return scores_BV.argmax(dim=-1)
        return draw(scores_BV, self.numbers_BT[alive_B, step].to(scores_BV.device))

    def _record(self, alive_B: np.ndarray, is_done_B: np.ndarray, step: int, tokens_B: np.ndarray) -> None:
        """Write down the tokens of the rows that go on, and which of these rows end with them."""
        rows, tokens = alive_B[~is_done_B], tokens_B[~is_done_B]
        if (tokens >= self.vocabulary).any():
            raise SamplingError(
                "the model's logits are NaN or infinite, so no token can be drawn: look at its weights (a learning "
                "rate that is too high?) and its precision (fp16 overflows where bf16 does not)"
            )
        self.tokens_BT[rows, step] = tokens
        self.lengths_B[rows] = step + 1
        self.ended_B[rows] = np.isin(tokens, self.eos_token_ids)
        if self.stops is not None:
            # EOS follows a stop string; where the context has no room for it, the row counts as cut off.
            for row in rows[~self.ended_B[rows] & (self.rooms_B[rows] > step + 1)].tolist():
                self.stopped_B[row] = self.stops.end(self.prompt_of_row[row], self.tokens_BT[row, : step + 1].tolist())
            self.ended_B |= self.stopped_B


class _Batch:
    """The model's inputs for the rows in the batch, as `generate` prepared them and its loops update them."""

    def __init__(
        self, model: Any, input_ids: torch.Tensor, model_kwargs: dict[str, Any], processors: LogitsProcessorList
    ):
        self.model = model
        self.input_ids = input_ids
        self.kwargs = model_kwargs
        self.logits_BV = torch.empty(len(input_ids), 0, device=input_ids.device)
        mask = model_kwargs.get("attention_mask")
        self.padding_B = (input_ids.new_zeros(len(input_ids), 1) if mask is None else mask == 0).sum(dim=1)
        self.processors = [
            # The new one does not know of the rows that `generate` has seen.
            RepetitionPenaltyLogitsProcessor(item.penalty) if type(item) is RepetitionPenaltyLogitsProcessor else item
            for item in processors
            # A smallest probability of 0 excludes nothing, and costs as much as the draw.
            if not (type(item) is MinPLogitsWarper and item.min_p == 0)
        ]

    @property
    def cache(self) -> Any:
        """The cache; `None`: the model keeps none."""
        return self.kwargs.get("cache", self.kwargs.get("past_key_values"))

    def forward(self, *, is_first: bool = False) -> None:
        """Compute the logits of every row's next token."""
        new = self.input_ids if is_first else self.input_ids[:, -1:]
        inputs = self.model.prepare_inputs_for_generation(new, is_first_iteration=is_first, **self.kwargs)
        if is_first and inputs.get("logits_to_keep") == 1 and new.device.type == "cpu":
            # With the number 1 the last tokens' hidden states are a view, whose product with the head's weight would
            # copy that weight for every prompt on the CPU; with a position they are a tensor of their own.
            inputs["logits_to_keep"] = torch.tensor([new.shape[1] - 1])
        outputs = self.model(**inputs, return_dict=True)
        self.kwargs = self.model._update_model_kwargs_for_generation(outputs, self.kwargs, is_encoder_decoder=False)
        self.logits_BV = outputs.logits[:, -1]

    def scores(self) -> torch.Tensor:
        """Scores of every row's next token in fp32, (B, V): the logits after all logits processors."""
        scores_BV = self.logits_BV.to(torch.float32, copy=True)
        self.logits_BV = scores_BV.new_empty(len(scores_BV), 0)  # they are not needed any more, and large
        for processor in self.processors:
            if not isinstance(processor, BY_CONTENT):
                scores_BV = processor(self.input_ids, scores_BV)
                continue
            # Padding is no part of a row: a short prompt's would depend on the row's neighbours.
            for padding in self.padding_B.unique().tolist():
                rows = self.padding_B == padding
                scores_BV[rows] = processor(self.input_ids[rows, padding:], scores_BV[rows])
        return scores_BV

    def append(self, tokens_B: torch.Tensor) -> None:
        """Add each row's next token."""
        self.input_ids = torch.cat([self.input_ids, tokens_B[:, None]], dim=1)

    def keep(self, rows: torch.Tensor, *, with_cache: bool = True) -> None:
        """Keep these rows, in this order; a row may be kept several times."""
        num_rows = len(self.input_ids)
        self.input_ids, self.padding_B = self.input_ids[rows], self.padding_B[rows]
        self.logits_BV = self.logits_BV[rows]
        self.kwargs = {name: _kept(value, rows, num_rows) for name, value in self.kwargs.items()}
        if with_cache:
            keep_rows(self.cache, rows)


def draw(scores_BV: torch.Tensor, numbers_B: torch.Tensor) -> torch.Tensor:
    """One token per row from softmax(scores), by inverting the cumulative distribution in fp32.

    Args:
        scores_BV (`float32`): logits, -inf for what is excluded; changed in place.
        numbers_B (`float32`): one number of [0, 1) per row.

    Returns:
        `int64` (B,): the tokens; V where the scores are NaN, infinite, or all excluded.
    """
    scores_BV -= scores_BV.amax(dim=-1, keepdim=True)
    masses_BV = scores_BV.exp_()
    cumulative_BV = masses_BV.cumsum(dim=-1)
    # The largest number below 1, 1 - 2^-24, times the total is rounded to less than the total. So a token is always
    # found, and on the CPU never one that is excluded: its mass adds nothing.
    wanted_B1 = numbers_B[:, None] * cumulative_BV[:, -1:]
    tokens_B1 = torch.searchsorted(cumulative_BV, wanted_B1, right=True)
    if scores_BV.device.type != "cpu":  # sums in parallel need not grow from each token to the next
        found_B1 = masses_BV.gather(1, tokens_B1.clamp(max=masses_BV.shape[1] - 1))
        tokens_B1 = torch.where(found_B1 == 0, masses_BV.argmax(dim=-1, keepdim=True), tokens_B1)
    return tokens_B1[:, 0]


def _numbers(seeds: Sequence[int], limits: Sequence[int]) -> torch.Tensor:
    """The numbers that each row's own generator gives, one per step; on the CPU, whatever device samples."""
    generator = torch.Generator()
    rows = [
        torch.rand(limit, generator=generator.manual_seed(seed)) for seed, limit in zip(seeds, limits, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _kept(value: Any, rows: torch.Tensor, num_rows: int) -> Any:
    """A model input with one row (of its last dimension but one) per row of the batch, for `rows` alone."""
    if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[-2] != num_rows:
        return value
    return value.index_select(-2, rows.to(value.device))
