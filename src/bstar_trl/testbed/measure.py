"""Measuring a policy on held-out sums: right answers, valid chains, and the number of distinct ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..metrics import pass_at_k, pass_at_k_s
from ..rollouts.store import text_id
from .task import answer_of, answer_to, draw_prompts, is_valid, terms_of

SAMPLED_QUERIES = 100
GREEDY_QUERIES = 300
RESPONSES = 32
CHUNK_SIZE = 1600
MAX_LENGTH = 40


def measure(model: Any, tokenizer: Any, *, seed: int = 0) -> dict[str, float]:
    """Metrics on held-out sums of 5 terms and, with the suffix `_6`, of 6: 32 responses at T = 1, and a greedy one.

    A response that did not end by itself is neither right nor valid.

    Args:
        model: a causal language model; its mode and the global random state do not change.
        tokenizer: the testbed's tokenizer.
        seed (`int`): of the samples; the sums are the same for every seed.

    Returns:
        `dict[str, float]`: `pass@1`, `valid@1`, `greedy_valid`, `pass@32`, `pass@32-4` (right answers), `valid@32-4`
        (valid chains), `distinct_valid` (distinct valid chains per query among 32), and the same with `_6`.
    """
    figures: dict[str, float] = {}
    with tqdm(total=2 * (SAMPLED_QUERIES * RESPONSES + GREEDY_QUERIES), desc="Measuring", leave=False) as bar:
        for terms, suffix in ((5, ""), (6, "_6")):
            prompts = draw_prompts(GREEDY_QUERIES, (terms,), seed=0, held_out=True)
            greedy = sample(model, tokenizer, prompts, temperature=0.0, seed=seed, bar=bar)
            repeated = [prompt for prompt in prompts[:SAMPLED_QUERIES] for _ in range(RESPONSES)]
            sampled = sample(model, tokenizer, repeated, temperature=1.0, seed=seed, bar=bar)
            valid_greedy = [_is_valid(*pair) for pair in zip(prompts, greedy, strict=True)]
            figures |= {
                f"{name}{suffix}": value
                for name, value in {
                    **_sampled_figures(repeated, sampled),
                    "greedy_valid": float(np.mean(valid_greedy)),
                }.items()
            }
    return figures


def _sampled_figures(prompts: Sequence[str], responses: Sequence[str | None]) -> dict[str, float]:
    shape = (-1, RESPONSES)
    pairs = list(zip(prompts, responses, strict=True))
    valid_NK = np.array([_is_valid(*pair) for pair in pairs]).reshape(shape)
    right = [text is not None and answer_of(text) == answer_to(terms_of(prompt)) for prompt, text in pairs]
    right_NK = np.array(right).reshape(shape)
    text_ids_NK = np.array([text_id(text or "") for text in responses], dtype=np.uint64).reshape(shape)
    distinct = [len(np.unique(ids[valid])) for ids, valid in zip(text_ids_NK, valid_NK, strict=True)]
    return {
        "pass@1": float(right_NK.mean()),
        "valid@1": float(valid_NK.mean()),
        f"pass@{RESPONSES}": float(pass_at_k(right_NK)),
        f"pass@{RESPONSES}-4": float(pass_at_k_s(right_NK, text_ids_NK, s=4)),
        f"valid@{RESPONSES}-4": float(pass_at_k_s(valid_NK, text_ids_NK, s=4)),
        "distinct_valid": float(np.mean(distinct)),
    }


def _is_valid(prompt: str, response: str | None) -> bool:
    return response is not None and is_valid(prompt, response)


@torch.no_grad()
def sample(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, temperature: float, seed: int, bar: tqdm | None = None
) -> list[str | None]:
    """A response to each prompt (temperature 0: greedy); `None` for one that did not end by itself."""
    was_training = model.training
    model.eval()
    responses: list[str | None] = []
    kind: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        kind |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), CHUNK_SIZE):
            batch = list(prompts[start : start + CHUNK_SIZE])
            inputs = tokenizer(batch, return_tensors="pt", padding=True).to(model.device)
            inputs.pop("token_type_ids", None)
            output = model.generate(**inputs, max_new_tokens=MAX_LENGTH, **kind)
            completions = output[:, inputs["input_ids"].shape[1] :].cpu()
            ended = (completions == tokenizer.eos_token_id).any(dim=1).tolist()
            texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
            responses += [text if end else None for text, end in zip(texts, ended, strict=True)]
            if bar is not None:
                bar.update(len(batch))
    model.train(was_training)
    return responses
