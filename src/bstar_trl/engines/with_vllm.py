"""Sampling with vLLM in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import MissingDependencyError
from .jobs import UNFILTERED, Job, Sample, as_list, checked_stop, checked_tokenizer


class VLLMEngine:
    """Samples with vLLM in this process. Prompts with a common beginning share its prefill (automatic prefix caching).

    Args:
        model (`str`): a Hub id or a folder.
        stop (`Sequence[str]`): strings that end a response, as EOS does.
        batch_size (`int`): jobs submitted at once; vLLM decides how many of them run together.
        max_new_tokens (`int`): largest length of a sample whose job sets none.
        **llm_kwargs: passed on to `vllm.LLM`: `max_model_len`, `gpu_memory_utilization`, `tensor_parallel_size`, ...

    Raises:
        ConfigurationError: a stop string is empty, or the tokenizer has no EOS.
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
        self.stop = checked_stop(stop)
        try:
            from vllm import LLM
        except ImportError as error:
            raise MissingDependencyError(
                f"the vLLM engine needs vLLM, which cannot be imported ({error}): pip install 'bstar-trl[vllm]'"
            ) from error
        self._llm = LLM(model=model, **{"enable_prefix_caching": True, **llm_kwargs})
        self.tokenizer = checked_tokenizer(self._llm.get_tokenizer())
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.max_length: int | None = self._llm.llm_engine.model_config.max_model_len
        declared = self._llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id")
        self._eos_token_ids = [self.tokenizer.eos_token_id, *as_list(declared)]

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[list[int], list[Sample]]]:
        """Sample, `batch_size` jobs at a time."""
        from vllm import SamplingParams

        fixed: dict[str, Any] = UNFILTERED | ({"stop": list(self.stop)} if self.stop else {})
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
            found = [item.outputs[0] for item in outputs]
            samples = [as_sample(item.token_ids, item.finish_reason, self._eos_token_ids) for item in found]
            yield list(range(start, start + len(chunk))), samples


def as_sample(token_ids: Sequence[int], finish_reason: str | None, eos_token_ids: Sequence[int]) -> Sample:
    """vLLM's output for a job as a sample; after a stop string, or a stop token other than EOS, EOS is appended."""
    tokens, ended = list(token_ids), finish_reason == "stop"
    if ended and (not tokens or tokens[-1] not in eos_token_ids):
        tokens.append(eos_token_ids[0])
    return Sample(tokens, ended)
