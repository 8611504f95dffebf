"""The policy under training: sampling and likelihoods; the one module that touches TRL's private hooks for them.

TRL provides the weight sync, the vLLM engine or client, and the unwrapping of the model. Each hook is found by looking
at what the trainer has, never at version numbers. The sampling itself is ours: TRL's own drops finish reasons, takes
one temperature a call, and mixes probes into its metrics.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import ProcessorMixin
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOTrainer
from trl.models import utils as trl_models

from ..engines import (
    ChunkedGenerate,
    Engine,
    Job,
    Sample,
    as_merge,
    as_sample,
    checked_tokenizer,
    context_length,
    eos_token_ids,
    job_seed,
    merged,
)
from ..errors import UnsupportedOptionError
from ..records import Completion, FinishReason, Request
from .prompts import PromptReader, named_datasets
from .seams import check_attributes
from .weights import keep_4_bit_layout, unmerged_copy

VLLM_CHUNKS_PER_CALL = 8  # how far generation runs ahead of scoring: one call's tail costs little, scoring overlaps
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
OURS = ("temperature", "do_sample", "n", "num_return_sequences", "seed", "logprobs")


class Policy:
    """What a GRPO trainer trains, as it is now, with the engine that the trainer was configured for.

    Args:
        trainer (`GRPOTrainer`): TRL's, fully built.
        chunk_size (`int`): completions in flight per process.

    Raises:
        ConfigurationError: the tokenizer has no EOS token.
        VersionError: TRL lacks something that the package builds on.
        UnsupportedOptionError: a model sharded over processes, without vLLM.
    """

    def __init__(self, trainer: GRPOTrainer, chunk_size: int):
        check_attributes(trainer)
        self._trainer = trainer
        args: Any = trainer.args  # a `GRPOConfig`
        self._args = args
        processing_class: Any = trainer.processing_class
        self.tokenizer: Any = checked_tokenizer(
            processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
        )
        keep_4_bit_layout(self.model)
        sharded = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
        if sharded and trainer.accelerator.num_processes > 1 and not args.use_vllm:
            raise UnsupportedOptionError(
                "sampling from a model that is sharded over processes (FSDP, DeepSpeed stage 3) is supported with "
                "use_vllm=True alone"
            )
        self._prompts = PromptReader(self.tokenizer, self.model, max_length=self._engine_length())
        for name, dataset in named_datasets(trainer.train_dataset, trainer.eval_dataset).items():
            self._prompts.check(name, dataset, **self.template_kwargs)
        self._engine: Engine
        if not args.use_vllm:
            self._engine = GenerateEngine(trainer, self.tokenizer, chunk_size)
        elif trainer.vllm_generation.mode == "server":
            self._engine = ServerEngine(trainer, self.tokenizer)
        else:
            self._engine = ColocatedEngine(trainer, self.tokenizer, chunk_size)

    def _engine_length(self) -> int | None:
        """Tokens of prompt and response together that a vLLM engine was set to."""
        return getattr(self._args, "vllm_max_model_length", None) if self._args.use_vllm else None

    @property
    def model(self) -> torch.nn.Module:
        """The model itself, without what accelerate has wrapped around it."""
        model: torch.nn.Module = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return model

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Arguments of the chat template."""
        return self._args.chat_template_kwargs or {}

    @property
    def sharding(self) -> str | None:
        """What divides the weights among processes: `"FSDP"`, `"DeepSpeed"`, or `None`."""
        if self._trainer.is_fsdp_enabled:
            return "FSDP"
        return "DeepSpeed" if self._trainer.is_deepspeed_enabled else None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Sampling happens within: the engine is awake and holds the current weights.

        Weights are pushed once per session, however many requests follow: each sync merges and unmerges a LoRA, and a
        sleeping engine has lost its weights.
        """
        trainer = self._trainer
        if not self._args.use_vllm:
            with cast(GenerateEngine, self._engine).session():
                yield
            return
        vllm = trainer.vllm_generation
        sleeps = vllm.mode == "colocate" and vllm.enable_sleep_mode
        if sleeps or trainer.state.global_step != trainer._last_loaded_step:
            with unmerged_copy(self.model):
                vllm.sync_weights()
            trainer._last_loaded_step = trainer.state.global_step
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
        if self._args.use_vllm:
            self._trainer._last_loaded_step = -1

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Sample every response of every request, as they come.

        Args:
            requests (`Sequence[Request]`): this process's share, with the rows of its queries. A collective where
                several processes share an engine.

        Raises:
            DatasetError: a prompt is empty, or the model cannot take it.
        """
        rows = {query_id: request.rows[query_id] for request in requests for query_id in request.query_ids}
        tokens = self._prompts.read(rows, **self.template_kwargs)
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
        for positions, sampled in self._engine.run(jobs):
            texts = self.tokenizer.batch_decode([item.token_ids for item in sampled], skip_special_tokens=True)
            for position, item, text in zip(positions, sampled, texts, strict=True):
                job, query_id = jobs[position], owners[position][1]
                reason: FinishReason = "stop" if item.ended else "length"
                yield Completion(query_id, job.temperature, job.prompt_ids, item.token_ids, text, reason)

    def log_probs(
        self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities (at T = 1) of the last tokens, from TRL's fused head, which never holds all logits.

        Args:
            model (`torch.nn.Module`): as the training loop has wrapped it.
            batch: `input_ids` and `attention_mask` (B, T), `completion_mask` (B, C) of the last C tokens.

        Returns:
            The log-probabilities (B, C), and a mixture-of-experts model's load-balancing loss if it has one.
        """
        kwargs: dict[str, Any] = {}
        wants_aux_loss = getattr(self._trainer, "aux_loss_enabled", False)
        if wants_aux_loss:
            kwargs["compute_aux_loss"] = True
        outputs = self._trainer._get_per_token_logps_and_entropies(
            model, batch["input_ids"], batch["attention_mask"], batch["completion_mask"].size(1), **kwargs
        )
        return outputs[0], outputs[2] if wants_aux_loss else None


class GenerateEngine:
    """`model.generate` in chunks; several temperatures share a chunk."""

    def __init__(self, trainer: GRPOTrainer, tokenizer: Any, chunk_size: int):
        self.trainer = trainer
        self.chunk_size = chunk_size
        kwargs = {name: value for name, value in trainer.generation_kwargs.items() if value is not None}
        policy = trainer.accelerator.unwrap_model(trainer.model)
        ends = eos_token_ids(tokenizer, policy)
        self.chunked = ChunkedGenerate(
            tokenizer,
            kwargs,
            ends,
            context_length(policy),
            size_option="generation_chunk_size",
            autocast=trainer.accelerator.autocast,
        )
        self.merge = as_merge(getattr(trainer.args, "merge_for_sampling", "auto"))  # a GRPOConfig has none
        self._merged: torch.nn.Module | None = None  # a copy of the policy with merged adapters

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sample]]]:
        # A process without jobs takes part all the same: unwrapping a distributed model is a collective.
        with self._policy() as model:
            yield from self.chunked.run(model, jobs, self.chunk_size)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Within, the weights stand still: adapters are merged once, into a copy."""
        trainer = self.trainer
        if trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            if self.merge == "always":
                raise UnsupportedOptionError("merge_for_sampling='always' needs a model that is not sharded")
            yield
            return
        policy = trainer.accelerator.unwrap_model(trainer.model)
        dtype = AUTOCAST.get(trainer.accelerator.mixed_precision)
        with merged(policy, self.merge, dtype) as model:
            self._merged = None if model is policy else model.eval()
            del model
            try:
                yield
            finally:
                self._merged = None

    @contextmanager
    def _policy(self) -> Iterator[Any]:
        trainer = self.trainer
        if self._merged is not None:
            yield self._merged
            return
        args: Any = trainer.args
        was_training = trainer.model.training  # type: ignore[union-attr]
        arguments: dict[str, Any] = {
            "gather_deepspeed3_params": args.ds3_gather_for_generation,
            "generation_kwargs": self.chunked.kwargs,
            "gradient_checkpointing_kwargs": args.gradient_checkpointing_kwargs,
        }
        known = inspect.signature(trl_models.unwrap_model_for_generation).parameters
        arguments = {name: value for name, value in arguments.items() if name in known}
        with (
            trl_models.unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **arguments) as model,
            trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
        ):
            model.eval()  # no dropout while sampling
            try:
                yield model
            finally:
                model.train(was_training)


class _VLLMEngine:
    """What the colocated engine and the server share: sampling parameters and the tokens that end a response."""

    def __init__(self, trainer: GRPOTrainer, tokenizer: Any):
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


class ColocatedEngine(_VLLMEngine):
    """The vLLM engine in this process; with tensor parallelism, the ranks of a group generate together."""

    def __init__(self, trainer: GRPOTrainer, tokenizer: Any, chunk_size: int):
        super().__init__(trainer, tokenizer)
        self.jobs_per_call = VLLM_CHUNKS_PER_CALL * chunk_size

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sample]]]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        parameters = dict(self.parameters)
        structured = parameters.get("structured_outputs")
        if self.vllm.structured_outputs_regex is not None:
            parameters["structured_outputs"] = StructuredOutputsParams(regex=self.vllm.structured_outputs_regex)
        elif isinstance(structured, dict):
            parameters["structured_outputs"] = StructuredOutputsParams(**structured)
        all_jobs, mine = self._group_jobs(jobs)
        for start in range(0, len(all_jobs), self.jobs_per_call):
            chunk = all_jobs[start : start + self.jobs_per_call]
            outputs = self.vllm.llm.generate(
                [{"prompt_token_ids": list(job.prompt_ids)} for job in chunk],
                sampling_params=[
                    SamplingParams(n=1, temperature=job.temperature, seed=job.seed, **parameters) for job in chunk
                ],
                use_tqdm=False,
            )
            ends = self.eos_token_ids
            sampled = [as_sample(item.outputs[0].token_ids, item.outputs[0].finish_reason, ends) for item in outputs]
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

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sample]]]:
        shares = gather_object([list(jobs)])
        accelerator = self.trainer.accelerator
        payload: list[Any] = [None]
        if accelerator.is_main_process:
            with ThreadPoolExecutor(self.max_in_flight) as pool:
                try:
                    payload = [list(pool.map(self._complete, [job for share in shares for job in share]))]
                except (RuntimeError, OSError) as error:  # an answer of the server's, or none
                    payload = [error]
        sampled = broadcast_object_list(payload, from_process=0)[0]
        if isinstance(sampled, Exception):
            raise sampled  # on every process, since the others wait for this one
        start = sum(len(share) for share in shares[: accelerator.process_index])
        yield list(range(len(jobs))), sampled[start : start + len(jobs)]

    def _complete(self, job: Job) -> Sample:
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
        return as_sample(choice["token_ids"], choice["finish_reason"], self.eos_token_ids)
