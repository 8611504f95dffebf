"""Sampling from the policy under training: the one room that touches TRL's private generation hooks.

Taken from TRL is what is hard (weight sync, the vLLM engine or client that it has built, unwrapping the model), and
each thing is reached by looking at what is there, never at version numbers. The sampling itself is ours: TRL's own
drops finish reasons, takes one temperature a call, and mixes probes into its metrics.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object, is_peft_model
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, ProcessorMixin
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.data_utils import is_conversational
from trl.models.utils import unwrap_model_for_generation

from .errors import ConfigurationError, DatasetError, UnsupportedOptionError
from .records import Completion, FinishReason, Request

if TYPE_CHECKING:
    from .trainer import BSTaRTrainer

VLLM_CHUNKS_PER_CALL = 8  # how far generation runs ahead of scoring: one call's tail costs little, scoring overlaps
GREEDY = {"top_p": 1.0, "top_k": 50}  # transformers' defaults: it warns of any other beside a greedy search
OURS = ("temperature", "do_sample", "n", "num_return_sequences", "seed", "logprobs")


@dataclass(frozen=True)
class Job:
    """One response to sample; temperature 0 means greedy."""

    query_id: int
    prompt_ids: Sequence[int]
    temperature: float
    seed: int


@dataclass(frozen=True)
class Sampled:
    """What an engine returns for a job: `ended` where EOS or a stop string ended it (EOS then stands last)."""

    token_ids: list[int]
    ended: bool


class Engine(Protocol):
    """Runs jobs chunk by chunk; yields the positions of a chunk's jobs and what was sampled for them."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]: ...


class PolicySampler:
    """Samples from a trainer's policy as it is now, with whatever engine the trainer was configured for."""

    def __init__(self, trainer: BSTaRTrainer):
        self.trainer = trainer
        processing_class: Any = trainer.processing_class
        self.tokenizer: Any = (
            processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
        )
        if self.tokenizer.eos_token_id is None:
            raise ConfigurationError("the tokenizer needs an EOS token: without one no response can end by itself")
        sharded = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
        if sharded and trainer.accelerator.num_processes > 1 and not trainer.args.use_vllm:
            raise UnsupportedOptionError(
                "sampling from a model that is sharded over processes (FSDP, DeepSpeed stage 3) is supported with "
                "use_vllm=True alone"
            )
        self.engine: Engine
        if not trainer.args.use_vllm:
            self.engine = TransformersEngine(trainer, self.tokenizer)
        elif trainer.vllm_generation.mode == "server":
            self.engine = ServerEngine(trainer, self.tokenizer)
        else:
            self.engine = ColocatedEngine(trainer, self.tokenizer)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Sampling happens in here: the engine holds the current weights and is awake; once per iteration.

        Weights are pushed once, however many requests follow: each sync merges and unmerges a LoRA, and a sleeping
        engine has lost them.
        """
        if not self.trainer.args.use_vllm:
            yield
            return
        vllm = self.trainer.vllm_generation
        sleeps = vllm.mode == "colocate" and vllm.enable_sleep_mode
        if sleeps or self.trainer.state.global_step != self.trainer._last_loaded_step:
            with unmerged_copy(self.trainer.accelerator.unwrap_model(self.trainer.model)):
                vllm.sync_weights()
            self.trainer._last_loaded_step = self.trainer.state.global_step
        if sleeps:
            vllm.llm.wake_up(tags=["kv_cache"])
        try:
            yield
        finally:
            if sleeps:
                vllm.llm.sleep(level=2)
                vllm._llm_weights_sleeping = True

    def weights_changed(self) -> None:
        """Tell the engine that the weights changed without an optimizer step."""
        if self.trainer.args.use_vllm:
            self.trainer._last_loaded_step = -1

    def prompt_ids(self, prompts: Sequence[Any]) -> list[list[int]]:
        """Token ids of prompts, text or messages, with the chat template's arguments."""
        if not prompts:
            return []
        if is_conversational({"prompt": prompts[0]}):
            template_kwargs: Any = self.trainer.args.chat_template_kwargs or {}
            return [
                self.tokenizer.apply_chat_template(
                    list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True, **template_kwargs
                )["input_ids"]
                for prompt in prompts
            ]
        return self.tokenizer(text=list(prompts))["input_ids"]

    def generate(self, requests: Sequence[Request], prompts: Mapping[int, Any]) -> Iterator[Completion]:
        """Sample every response of every request, as they come.

        Args:
            requests (`Sequence[Request]`): this process's share; a collective where several processes share an engine.
            prompts (`Mapping[int, Any]`): the prompt of each query id.
        """
        query_ids = list(dict.fromkeys(query_id for request in requests for query_id in request.query_ids))
        for query_id in query_ids:
            if not prompts[query_id]:
                raise DatasetError(f"the prompt of query {query_id} is empty: got {prompts[query_id]!r}")
        tokens = dict(zip(query_ids, self.prompt_ids([prompts[query_id] for query_id in query_ids]), strict=True))
        jobs = [
            Job(query_id, tokens[query_id], request.temperature, _job_seed(request.seed, query_id, copy))
            for request in requests
            for query_id in request.query_ids
            for copy in range(request.n)
        ]
        for positions, sampled in self.engine.run(jobs):
            texts = self.tokenizer.batch_decode([item.token_ids for item in sampled], skip_special_tokens=True)
            for position, item, text in zip(positions, sampled, texts, strict=True):
                job = jobs[position]
                reason: FinishReason = "stop" if item.ended else "length"
                yield Completion(job.query_id, job.temperature, job.prompt_ids, item.token_ids, text, reason)


def completion_log_probs(
    trainer: BSTaRTrainer, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities (at T = 1) of the completion tokens, shape (batch, completion length), from TRL's fused head.

    Never materialises the logits. The second value is a mixture-of-experts model's load-balancing loss, if it has one.
    """
    kwargs: dict[str, Any] = {}
    wants_aux_loss = getattr(trainer, "aux_loss_enabled", False)
    if wants_aux_loss:
        kwargs["compute_aux_loss"] = True
    outputs = trainer._get_per_token_logps_and_entropies(
        model, batch["input_ids"], batch["attention_mask"], batch["completion_mask"].size(1), **kwargs
    )
    return outputs[0], outputs[2] if wants_aux_loss else None


@contextmanager
def unmerged_copy(model: torch.nn.Module) -> Iterator[None]:
    """Give a LoRA's base weights back bit by bit after they were merged and unmerged in low precision.

    Adding and subtracting the adapter in bf16 leaves a rounding error each time, which adds up over the syncs.
    """
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    if is_peft_model(model):
        for module in model.modules():
            weight: Any = getattr(module, "weight", None)
            # Quantised weights are not merged in place, and full precision does not drift.
            if hasattr(module, "base_layer") and getattr(weight, "dtype", None) in (torch.bfloat16, torch.float16):
                kept.append((weight.data, weight.data.to("cpu", copy=True)))
    try:
        yield
    finally:
        for weight, copy in kept:
            weight.copy_(copy)


class TransformersEngine:
    """`model.generate` in chunks; several temperatures share a chunk."""

    def __init__(self, trainer: BSTaRTrainer, tokenizer: Any):
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.kwargs = {name: value for name, value in trainer.generation_kwargs.items() if value is not None}
        self.kwargs |= {"num_return_sequences": 1}
        self.eos_token_ids = _eos_token_ids(trainer, tokenizer) + _as_list(self.kwargs.get("eos_token_id"))
        self.has_stop_strings = bool(self.kwargs.get("stop_strings"))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]:
        chunk_size = self.trainer.args.chunk_size
        # A process without jobs takes part all the same: unwrapping a distributed model is a collective.
        with self._policy() as model:
            for greedy in (False, True):
                positions = [index for index, job in enumerate(jobs) if (job.temperature == 0) == greedy]
                # Prompts of like length share a chunk; `sorted` is stable, so the order is the same every time.
                positions = sorted(positions, key=lambda index: len(jobs[index].prompt_ids))
                for start in range(0, len(positions), chunk_size):
                    chunk = positions[start : start + chunk_size]
                    yield chunk, self._generate(model, [jobs[index] for index in chunk], greedy)

    @contextmanager
    def _policy(self) -> Iterator[Any]:
        trainer = self.trainer
        was_training = trainer.model.training  # type: ignore[union-attr]
        arguments: dict[str, Any] = {
            "gather_deepspeed3_params": trainer.args.ds3_gather_for_generation,
            "generation_kwargs": self.kwargs,
            "gradient_checkpointing_kwargs": trainer.args.gradient_checkpointing_kwargs,
        }
        known = inspect.signature(unwrap_model_for_generation).parameters
        arguments = {name: value for name, value in arguments.items() if name in known}
        with (
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **arguments) as model,
            torch.no_grad(),
            trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
        ):
            model.eval()  # no dropout while sampling
            try:
                yield model
            finally:
                model.train(was_training)

    def _generate(self, model: Any, jobs: Sequence[Job], greedy: bool) -> list[Sampled]:
        device = self.trainer.accelerator.device
        width = max(len(job.prompt_ids) for job in jobs)
        input_ids = torch.full((len(jobs), width), self.tokenizer.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, job in enumerate(jobs):
            input_ids[row, width - len(job.prompt_ids) :] = torch.tensor(job.prompt_ids)
            attention_mask[row, width - len(job.prompt_ids) :] = 1
        ours = {"do_sample": not greedy, "temperature": 1.0} | (GREEDY if greedy else {})
        config = GenerationConfig(**(self.kwargs | ours), disable_compile=True)
        processors = LogitsProcessorList()
        if not greedy:
            processors.append(RowTemperature([job.temperature for job in jobs], config.num_beams or 1, device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_mixed([job.seed for job in jobs]))
            output = model.generate(
                input_ids=input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=config,
                logits_processor=processors,
                **({"tokenizer": self.tokenizer} if self.has_stop_strings else {}),
            )
        return self._cut(output[:, width:].cpu().numpy())

    def _cut(self, token_ids_BT: np.ndarray) -> list[Sampled]:
        """Each row up to its end; what follows is padding."""
        length = token_ids_BT.shape[1]
        is_eos_BT = np.isin(token_ids_BT, self.eos_token_ids)
        has_eos_B = is_eos_BT.any(axis=1)
        ends_B = np.where(has_eos_B, is_eos_BT.argmax(axis=1) + 1, length)
        rows = [row[:end].tolist() for row, end in zip(token_ids_BT, ends_B, strict=True)]
        return [
            Sampled(row, True) if has_eos else self._cut_at_stop_string(row)
            for row, has_eos in zip(rows, np.asarray(has_eos_B).tolist(), strict=True)
        ]

    def _cut_at_stop_string(self, row: list[int]) -> Sampled:
        """A row without EOS: cut off at the length limit, or ended by a stop string, after which it was padded."""
        if not self.has_stop_strings:
            return Sampled(row, False)
        while row and row[-1] == self.tokenizer.pad_token_id:
            row.pop()
        stop_strings = self.kwargs["stop_strings"]
        stop_strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
        # The last token may hold more than the stop string's end, so look for it anywhere: any earlier one would
        # have ended the row before.
        if any(stop in self.tokenizer.decode(row) for stop in stop_strings):
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


class _VLLMEngine:
    """What the colocated engine and the server share: sampling parameters and how a response ended."""

    def __init__(self, trainer: BSTaRTrainer, tokenizer: Any):
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.vllm = trainer.vllm_generation
        self.eos_token_ids = _eos_token_ids(trainer, tokenizer)
        extra = {name: value for name, value in self.vllm.generation_kwargs.items() if name not in OURS}
        self.parameters = {
            "repetition_penalty": self.vllm.repetition_penalty,
            "top_p": self.vllm.top_p,
            "top_k": self.vllm.top_k,
            "min_p": 0.0 if self.vllm.min_p is None else self.vllm.min_p,
            "max_tokens": self.vllm.max_completion_length,
        } | extra

    def sampled(self, token_ids: Sequence[int], finish_reason: str | None) -> Sampled:
        """EOS is appended where a stop string, or a stop token that is none, ended the response."""
        tokens, ended = list(token_ids), finish_reason == "stop"
        if ended and (not tokens or tokens[-1] not in self.eos_token_ids):
            tokens.append(self.tokenizer.eos_token_id)
        return Sampled(tokens, ended)


class ColocatedEngine(_VLLMEngine):
    """The vLLM engine in this process; with tensor parallelism, the ranks of a group generate together."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        parameters = dict(self.parameters)
        structured = parameters.get("structured_outputs")
        if self.vllm.structured_outputs_regex is not None:
            parameters["structured_outputs"] = StructuredOutputsParams(regex=self.vllm.structured_outputs_regex)
        elif isinstance(structured, dict):
            parameters["structured_outputs"] = StructuredOutputsParams(**structured)
        all_jobs, mine = self._group_jobs(jobs)
        size = VLLM_CHUNKS_PER_CALL * self.trainer.args.chunk_size
        for start in range(0, len(all_jobs), size):
            chunk = all_jobs[start : start + size]
            outputs = self.vllm.llm.generate(
                [{"prompt_token_ids": list(job.prompt_ids)} for job in chunk],
                sampling_params=[
                    SamplingParams(n=1, temperature=job.temperature, seed=job.seed, **parameters) for job in chunk
                ],
                use_tqdm=False,
            )
            sampled = [self.sampled(item.outputs[0].token_ids, item.outputs[0].finish_reason) for item in outputs]
            kept = [index for index in range(len(chunk)) if start + index in mine]
            yield [start + index - mine.start for index in kept], [sampled[index] for index in kept]

    def _group_jobs(self, jobs: Sequence[Job]) -> tuple[list[Job], range]:
        """The jobs of all ranks of the tensor-parallel group, and which of them are ours."""
        if self.vllm.tensor_parallel_size == 1:
            return list(jobs), range(len(jobs))
        group = self.vllm.tp_group
        gathered: list[Any] = [None] * self.vllm.tensor_parallel_size
        torch.distributed.all_gather_object(gathered, list(jobs), group=group)
        before = sum(len(part) for part in gathered[: torch.distributed.get_rank(group=group)])
        return [job for part in gathered for job in part], range(before, before + len(jobs))


class ServerEngine(_VLLMEngine):
    """A vLLM server: the main process sends one HTTP request per response, many in flight together."""

    max_in_flight = 64

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]:
        shares = gather_object([list(jobs)])
        accelerator = self.trainer.accelerator
        payload: list[Any] = [None]
        if accelerator.is_main_process:
            with ThreadPoolExecutor(self.max_in_flight) as pool:
                payload = [list(pool.map(self._complete, [job for share in shares for job in share]))]
        sampled = broadcast_object_list(payload, from_process=0)[0]
        start = sum(len(share) for share in shares[: accelerator.process_index])
        yield list(range(len(jobs))), sampled[start : start + len(jobs)]

    def _complete(self, job: Job) -> Sampled:
        client = self.vllm.vllm_client
        body = {
            "model": client.model,
            "prompt": list(job.prompt_ids),
            "return_token_ids": True,
            "n": 1,
            "temperature": job.temperature,
            "seed": job.seed,
            **self.parameters,
        }
        if self.vllm.structured_outputs_regex is not None:
            body["structured_outputs"] = {"regex": self.vllm.structured_outputs_regex}
        response = client.session.post(f"{client.base_url}/v1/completions", json=body)
        if response.status_code != 200:
            raise RuntimeError(
                f"the vLLM server at {client.base_url} answered {response.status_code}: {response.text[:500]}"
            )
        choice = response.json()["choices"][0]
        return self.sampled(choice["token_ids"], choice["finish_reason"])


def _eos_token_ids(trainer: BSTaRTrainer, tokenizer: Any) -> list[int]:
    """Every token that ends a response: the tokenizer's EOS and whatever else the model declares."""
    declared = _as_list(trainer.accelerator.unwrap_model(trainer.model).generation_config.eos_token_id)
    return [tokenizer.eos_token_id, *(token for token in declared if token != tokenizer.eos_token_id)]


def _as_list(token_ids: int | Sequence[int] | None) -> list[int]:
    return [] if token_ids is None else [token_ids] if isinstance(token_ids, int) else list(token_ids)


def _mixed(numbers: Iterable[int]) -> int:
    return int(np.random.SeedSequence(list(numbers)).generate_state(1)[0])


def _job_seed(seed: int, query_id: int, copy: int) -> int:
    return _mixed((seed, query_id, copy)) >> 1  # vLLM takes 63 bits, its HTTP server 32
