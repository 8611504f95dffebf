"""Sampling without a trainer: a list of jobs in, samples out, with transformers or vLLM.

The pieces that sampling from a policy under training needs too (padding, a temperature of each row's own, where a
response ends) live here, and `generation.py` builds on them.
"""

from .jobs import Engine, Job, Sampled, TextEngine, checked_tokenizer, job_seed, prompt_ids
from .with_transformers import ModelSampler, TransformersEngine, eos_token_ids
from .with_vllm import VLLMEngine, vllm_sample

__all__ = [
    "Engine",
    "Job",
    "ModelSampler",
    "Sampled",
    "TextEngine",
    "TransformersEngine",
    "VLLMEngine",
    "checked_tokenizer",
    "eos_token_ids",
    "job_seed",
    "prompt_ids",
    "vllm_sample",
]
