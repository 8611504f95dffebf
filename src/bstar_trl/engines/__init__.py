"""Engines sample responses without a trainer: they take jobs and yield samples, with transformers or vLLM.

`training` samples from a policy under training with the same parts: padding, one temperature per row, where a response
ends.
"""

from .jobs import Engine, Job, Sample, TextEngine, as_list, checked_tokenizer, job_seed, prompt_ids
from .merging import as_merge, merged
from .padding import pad_rows
from .with_transformers import ChunkedGenerate, TransformersEngine, context_length, eos_token_ids
from .with_vllm import VLLMEngine, as_sample

__all__ = [
    "ChunkedGenerate",
    "Engine",
    "Job",
    "Sample",
    "TextEngine",
    "TransformersEngine",
    "VLLMEngine",
    "as_list",
    "as_merge",
    "as_sample",
    "checked_tokenizer",
    "context_length",
    "eos_token_ids",
    "job_seed",
    "merged",
    "pad_rows",
    "prompt_ids",
]
