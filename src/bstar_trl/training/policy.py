"""Sampling from the policy under training: the one room that touches TRL's private generation hooks.

Taken from TRL is what is hard (weight sync, the vLLM engine or client that it has built, unwrapping the model), and
each thing is reached by looking at what is there, never at version numbers. The sampling itself is ours: TRL's own
drops finish reasons, takes one temperature a call, and mixes probes into its metrics.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, is_peft_model
from transformers import ProcessorMixin
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.models.utils import unwrap_model_for_generation

from ..engines import Decoder as ModelSampler
from ..engines import Engine, Job, checked_tokenizer, eos_token_ids, job_seed, prompt_ids
from ..engines import Sample as Sampled
from ..engines import as_sample as vllm_sample
from ..errors import DatasetError, UnsupportedOptionError
from ..records import Completion, FinishReason, Request

if TYPE_CHECKING:
    from .trainer import BSTaRTrainer

VLLM_CHUNKS_PER_CALL = 8  # how far generation runs ahead of scoring: one call's tail costs little, scoring overlaps
OURS = ("temperature", "do_sample", "n", "num_return_sequences", "seed", "logprobs")


class PolicySampler:
    """Samples from a trainer's policy as it is now, with whatever engine the trainer was configured for."""

    def __init__(self, trainer: BSTaRTrainer):
        self.trainer = trainer
        processing_class: Any = trainer.processing_class
        self.tokenizer: Any = checked_tokenizer(
            processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
        )
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
        template_kwargs: Any = self.trainer.args.chat_template_kwargs or {}
        return prompt_ids(self.tokenizer, prompts, **template_kwargs)

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
        owners = [
            (request, query_id, copy)
            for request in requests
            for query_id in request.query_ids
            for copy in range(request.n)
        ]
        jobs = [
            Job(tokens[query_id], request.temperature, job_seed(request.seed, query_id, copy))
            for request, query_id, copy in owners
        ]
        for positions, sampled in self.engine.run(jobs):
            texts = self.tokenizer.batch_decode([item.token_ids for item in sampled], skip_special_tokens=True)
            for position, item, text in zip(positions, sampled, texts, strict=True):
                job, query_id = jobs[position], owners[position][1]
                reason: FinishReason = "stop" if item.ended else "length"
                yield Completion(query_id, job.temperature, job.prompt_ids, item.token_ids, text, reason)


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
        kwargs = {name: value for name, value in trainer.generation_kwargs.items() if value is not None}
        policy = trainer.accelerator.unwrap_model(trainer.model)
        self.sampler = ModelSampler(tokenizer, kwargs, eos_token_ids(tokenizer, policy))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sampled]]]:
        # A process without jobs takes part all the same: unwrapping a distributed model is a collective.
        with self._policy() as model:
            yield from self.sampler.run(model, jobs, self.trainer.args.chunk_size)

    @contextmanager
    def _policy(self) -> Iterator[Any]:
        trainer = self.trainer
        was_training = trainer.model.training  # type: ignore[union-attr]
        arguments: dict[str, Any] = {
            "gather_deepspeed3_params": trainer.args.ds3_gather_for_generation,
            "generation_kwargs": self.sampler.kwargs,
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


class _VLLMEngine:
    """What the colocated engine and the server share: sampling parameters and how a response ended."""

    def __init__(self, trainer: BSTaRTrainer, tokenizer: Any):
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.vllm = trainer.vllm_generation
        self.eos_token_ids = eos_token_ids(tokenizer, trainer.accelerator.unwrap_model(trainer.model))
        extra = {name: value for name, value in self.vllm.generation_kwargs.items() if name not in OURS}
        self.parameters = {
            "repetition_penalty": self.vllm.repetition_penalty,
            "top_p": self.vllm.top_p,
            "top_k": self.vllm.top_k,
            "min_p": 0.0 if self.vllm.min_p is None else self.vllm.min_p,
            "max_tokens": self.vllm.max_completion_length,
        } | extra

    def sampled(self, token_ids: Sequence[int], finish_reason: str | None) -> Sampled:
        """What vLLM returned for a job."""
        return vllm_sample(token_ids, finish_reason, self.eos_token_ids)


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
