"""The time of scoring every step, compared with one forward pass over the same tokens.

1,000 responses of 10 steps, 100 questions, on one core:

    python benchmarks/process_reward.py

`ProcessReward.score` splits, lays out, tokenises, sorts, pads, runs the model and reduces. The plain pass runs the
same model on the same padded batches, made beforehand. The two alternate in one process, each goes first in turn, and
the best processor time of each counts (other processes may share the core). The bar is a ratio of 1.2.
A token classifier's head costs next to nothing, so its ratio shows the overhead of `score`. The plain pass of a causal
model computes the logits of the whole vocabulary for every token, `score` only for the step tags.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification, PreTrainedTokenizerFast

from bstar_trl.engines import pad_rows
from bstar_trl.prm.model import pack
from bstar_trl.prm.steps import split_steps
from bstar_trl.rewards import ProcessReward

QUESTIONS, RESPONSES, STEPS = 100, 10, 10
LAYERS, WIDTH, VOCABULARY = 4, 256, 2_000
ROUNDS = 2
BAR = 1.2
NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jon"]
THINGS = ["apples", "books", "coins", "stamps", "cards", "marbles"]


def make_text(seed: int = 0) -> tuple[list[str], list[str]]:
    """Prompts and responses like grade-school solutions, with 7 to 25 words per step."""
    rng = np.random.default_rng(seed)
    prompts, responses = [], []
    for _ in range(QUESTIONS):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        question = f"{name} has {rng.integers(2, 900)} {thing} and gives {rng.integers(2, 9)} - no more - to each of "
        question += f"{rng.integers(2, 9)} friends. How many {thing} are left?"
        for _ in range(RESPONSES):
            steps = []
            for number in range(STEPS):
                left, right = rng.integers(2, 900, 2)
                more = f" So {name} now has {left + right} {thing}, which we keep for the next step." * (
                    rng.random() < 0.4
                )
                steps.append(f"Step {number + 1}: {name} takes {left} + {right} = {left + right} {thing}.{more}")
            prompts.append(question)
            responses.append("\n".join(steps))
    return prompts, responses


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, learned from these texts, with Math-Shepherd's tag."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken("ки", special=True), AddedToken("<pad>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(model: Any, tokenizer: Any, prompts: list[str], responses: list[str]) -> tuple[float, float, int]:
    """The best times of `score` and of the plain pass, and the tokens of a pass."""
    reward = ProcessReward(model, tokenizer=tokenizer)
    steps = [split_steps(response, reward.split) for response in responses]
    layouts = reward.model.format.lay_out(tokenizer, prompts, steps)
    sequences = [layout.token_ids for layout in layouts]
    batches = [
        pad_rows([sequences[index] for index in batch], 0, "right")
        for batch in pack([*map(len, sequences)], reward.batch_tokens)
    ]

    def plain() -> None:
        with torch.inference_mode():
            for token_ids_BT, mask_BT in batches:
                model(input_ids=token_ids_BT, attention_mask=mask_BT, use_cache=False)

    reward.score(prompts[:64], responses[:64])  # warm
    works = {"score": lambda: reward.score(prompts, responses), "plain": plain}
    times: dict[str, list[float]] = {"score": [], "plain": []}
    for number in range(ROUNDS):
        for name in list(works)[:: -1 if number % 2 else 1]:
            times[name].append(seconds(works[name]))
    return min(times["score"]), min(times["plain"]), sum(map(len, sequences))


def main() -> None:
    """Print both times and their ratio per kind of model."""
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[-1:])  # one core
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prompts, responses = make_text()
    tokenizer = make_tokenizer(prompts + responses)
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2_048,
    }
    print(
        f"{len(responses):,} responses of {STEPS} steps; {LAYERS} layers, {WIDTH} wide; one core, best of {ROUNDS}\n"
    )
    print(f"{'model':<24}{'tokens':>9}{'score':>9}{'plain':>9}{'ratio':>8}")
    for name, kind in [("token classifier", LlamaForTokenClassification), ("Math-Shepherd", LlamaForCausalLM)]:
        model = kind(LlamaConfig(**config, num_labels=2)).eval()
        score, plain, tokens = compare(model, tokenizer, prompts, responses)
        print(f"{name:<24}{tokens:>9,}{score:>8.1f}s{plain:>8.1f}s{score / plain:>8.3f}")
        if score / plain > BAR:
            raise SystemExit(f"{name}: above the bar of {BAR}")


if __name__ == "__main__":
    main()
