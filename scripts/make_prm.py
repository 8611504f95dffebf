"""Make the testbed's process reward model: `python scripts/make_prm.py` (see the printed times; one core).

Math-Shepherd from end to end, and no look at the truth: the starting policy solves sums and completes its own steps,
the answers alone are checked, and the soft labels train a token classifier.

The classifier is the policy with two layers on top, copies of its first two that at first do nothing. The policy's own
layers stay as they are: they say what should come next, and the new ones learn to compare it with what came. The truth
is looked at afterwards, to measure on held-out sums how well it tells valid chains from others.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer, TrainerCallback

from bstar_trl.cli import main as bstar_trl
from bstar_trl.metrics import best_of_k
from bstar_trl.process_rewards.data import load_rows
from bstar_trl.process_rewards.measures import auc
from bstar_trl.process_rewards.train import prm_arguments, train_prm
from bstar_trl.rewards import ProcessReward
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.measure import sample
from bstar_trl.testbed.task import answer_of, answer_to, draw_prompts, is_valid, make_dataset, terms_of

FOLDER = Path(__file__).parents[1] / "src" / "bstar_trl" / "testbed" / "prm"
QUERIES = 4000
MIX = (4, 5, 5, 6)  # terms
SOLUTIONS = 8
COMPLETIONS = 2  # many steps with rough labels teach more than few with fine ones
NEW_LAYERS = 2
HELD_OUT = 300
RESPONSES = 16


class Frozen(TrainerCallback):
    """Holds the policy's own layers fast."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step."""
        inner = kwargs["model"].model
        for part in (inner.embed_tokens, *inner.layers[:-NEW_LAYERS]):
            part.requires_grad_(False)


def annotate(folder: Path, seed: int) -> None:
    """Soft labels for the steps of the policy's solutions, by `bstar-trl annotate`."""
    make_dataset(QUERIES, MIX, seed=seed).to_json(folder / "queries.jsonl")
    words = {
        "--model": policy_path(),
        "--dataset": str(folder / "queries.jsonl"),
        "--verifier": "bstar_trl.testbed.rewards:SumMatch",
        "--output-dir": str(folder / "annotated"),
        "--separator": "=",
        "--solutions": SOLUTIONS,
        "--completions": COMPLETIONS,
        "--max-new-tokens": 40,
        "--batch-size": 1000,
        "--group-size": 250,
        "--seed": seed,
    }
    assert bstar_trl(["annotate", *(str(word) for pair in words.items() for word in pair)]) == 0


def deepen(folder: Path) -> None:
    """The policy with copies of its first layers on top, which add nothing to the stream yet."""
    policy = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32)
    config = copy.deepcopy(policy.config)
    config.num_hidden_layers += NEW_LAYERS
    deeper = type(policy)(config)
    deeper.load_state_dict(policy.state_dict(), strict=False)
    for layer, source in zip(deeper.model.layers[-NEW_LAYERS:], policy.model.layers, strict=False):
        layer.load_state_dict(source.state_dict())
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    deeper.save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy_path()).save_pretrained(folder)


def measure(folder: str, seed: int) -> dict[str, float]:
    """How well it tells valid chains from others among those that the policy samples for held-out sums."""
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    policy = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32)
    prompts = [
        prompt for prompt in draw_prompts(HELD_OUT, (5, 5, 6), seed=seed, held_out=True) for _ in range(RESPONSES)
    ]
    sampled = sample(policy, tokenizer, prompts, temperature=1.0, seed=seed)
    texts = [text or "" for text in sampled]
    scores = np.array(ProcessReward(folder, dtype=torch.float32)(prompts, texts))
    valid = np.array([is_valid(*pair) for pair in zip(prompts, texts, strict=True)])
    right = np.array([answer_of(text) == answer_to(terms_of(prompt)) for prompt, text in zip(prompts, texts, strict=True)])
    terms = np.array([len(terms_of(prompt)) for prompt in prompts])
    figures = {"auc": auc(scores, valid), "auc of right answers": auc(scores[right], valid[right])}
    for count in (5, 6):
        mask = terms == count
        figures[f"auc, {count} terms"] = auc(scores[mask], valid[mask])
        for name, truth in (("valid", valid), ("right", right)):
            table = truth[mask].reshape(-1, RESPONSES)
            best = best_of_k(scores[mask].reshape(-1, RESPONSES), table)
            figures[f"{name}@1, {count} terms"] = float(table.mean())
            figures[f"{name}, best of {RESPONSES}, {count} terms"] = float(best)
    return figures


def main() -> None:
    """Annotate, deepen, train, save in half precision, and measure what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    parser.add_argument("--work-dir", type=Path, help="keeps the annotation, and goes on from it")
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = parsed.work_dir or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        annotate(work, parsed.seed)
        print(f"annotated after {time.perf_counter() - started:.0f} s")
        deepen(work / "base")
        train_prm(
            str(work / "base"),
            load_rows([work / "annotated"]),
            args=prm_arguments(
                work / "prm",
                num_train_epochs=parsed.epochs,
                learning_rate=parsed.learning_rate,
                per_device_train_batch_size=64,
                train_sampling_strategy="random",  # rows of one length are sums of one kind
                save_strategy="no",
                logging_steps=200,
                seed=parsed.seed,
                use_cpu=True,
                bf16=False,
            ),
            separator="=",
            callbacks=[Frozen()],
        )
        print(f"trained after {time.perf_counter() - started:.0f} s")
        model = AutoModelForTokenClassification.from_pretrained(work / "prm", dtype=torch.float16)
        model.save_pretrained(parsed.output_dir)
        AutoTokenizer.from_pretrained(work / "prm").save_pretrained(parsed.output_dir)
    print(json.dumps({name: round(value, 3) for name, value in measure(str(parsed.output_dir), 1).items()}, indent=2))


if __name__ == "__main__":
    main()
