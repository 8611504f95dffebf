"""Make the testbed's process reward model: `python scripts/make_prm.py` (about 20 minutes on one core).

The script runs all of Math-Shepherd, with answers alone and without the truth about chains:

1. The starting policy trains on its own right answers, 8 iterations of Online RFT (`bstar-trl demo --static`).
2. The starting policy solves sums, and the trained policy completes the steps (`bstar-trl annotate`, soft labels). The
   trained policy also solves other sums and completes its own steps, since its solutions hold more right steps.
3. The trained policy becomes a token classifier on these labels (`bstar-trl train-prm`), saved in half precision.

Only the measurement at the end uses the truth, whether every step follows: it reports how well the model separates the
starting policy's valid chains from its other chains, on held-out sums.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from bstar_trl.cli import main as bstar_trl
from bstar_trl.metrics import best_of_k
from bstar_trl.prm_training.data import load_rows
from bstar_trl.prm_training.measures import auc
from bstar_trl.prm_training.train import prm_arguments, train_prm
from bstar_trl.rewards import ProcessReward
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.demo import run_demo
from bstar_trl.testbed.measure import sample
from bstar_trl.testbed.task import answer_of, answer_to, draw_prompts, is_valid, make_dataset, terms_of

FOLDER = Path(__file__).parents[1] / "src" / "bstar_trl" / "testbed" / "prm"
MIX = (5, 5, 6)  # terms
QUERIES, OWN_QUERIES = 2500, 1000  # for the starting policy, for the trained policy
SOLUTIONS, COMPLETIONS = 8, 4
HELD_OUT, RESPONSES = 300, 16
TRUTH_SEED = 1000


def annotate(folder: Path, policy: str, completer: str, queries: int, seed: int) -> Path:
    """Soft labels for the steps of the policy's solutions."""
    rows = folder.with_suffix(".jsonl")
    make_dataset(queries, MIX, seed=seed).to_json(rows)
    words: dict[str, Any] = {
        "--model": policy,
        "--completer": completer,
        "--dataset": rows,
        "--verifier": "bstar_trl.testbed.rewards:SumMatch",
        "--output-dir": folder,
        "--separator": "=",
        "--solutions": SOLUTIONS,
        "--completions": COMPLETIONS,
        "--max-new-tokens": 40,
        "--batch-size": 800,
        "--group-size": 64,
        "--seed": seed,
    }
    if bstar_trl(["annotate", *(str(word) for pair in words.items() for word in pair)]):
        raise SystemExit(1)
    return folder


def measure(folder: str | Path) -> dict[str, float]:
    """How well the model separates valid from other chains of the starting policy, on held-out sums."""
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    policy = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32)
    drawn = draw_prompts(HELD_OUT, MIX, seed=TRUTH_SEED, held_out=True)
    prompts = [prompt for prompt in drawn for _ in range(RESPONSES)]
    texts = [text or "" for text in sample(policy, tokenizer, prompts, temperature=1.0, seed=TRUTH_SEED)]
    pairs = list(zip(prompts, texts, strict=True))
    scores = np.array(ProcessReward(str(folder), dtype=torch.float32)(prompts, texts))
    valid = np.array([is_valid(*pair) for pair in pairs])
    right = np.array([answer_of(text) == answer_to(terms_of(prompt)) for prompt, text in pairs])
    terms = np.array([len(terms_of(prompt)) for prompt in prompts])
    figures = {"auc": auc(scores, valid), "auc_among_right_answers": auc(scores[right], valid[right])}
    for count in sorted(set(MIX)):
        mask = terms == count
        figures[f"auc_{count}"] = auc(scores[mask], valid[mask])
        for name, truth in (("valid", valid), ("pass", right)):
            table = truth[mask].reshape(-1, RESPONSES)
            figures[f"{name}@1_{count}"] = float(table.mean())
            figures[f"{name}_best_of_{RESPONSES}_{count}"] = float(
                best_of_k(scores[mask].reshape(-1, RESPONSES), table)
            )
    return figures


def main() -> None:
    """Train the completer, annotate, train the classifier, save it, and measure the saved model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    parser.add_argument("--work-dir", type=Path, help="keeps the intermediate results, and continues from them")
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--measure", action="store_true", help="only measure the model in the output folder")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    if not parsed.measure:
        with tempfile.TemporaryDirectory() as temporary:
            make(parsed.work_dir or Path(temporary), parsed.output_dir, parsed.seed, parsed.epochs)
    for name, value in measure(parsed.output_dir).items():
        print(f"{name:<28}{value:.3f}")


def make(work: Path, output_dir: Path, seed: int, epochs: float) -> None:
    """All three steps; each prints the time when it is done."""
    started = time.perf_counter()
    trained = work / "rft" / "policy"
    if not trained.exists():
        run_demo(work / "rft", seed=100 + seed, static=True, reward="answer", save_policy=True)
    print(f"policy trained after {time.perf_counter() - started:.0f} s")
    annotated = [
        annotate(work / "of-start", policy_path(), str(trained), QUERIES, 200 + seed),
        annotate(work / "of-trained", str(trained), str(trained), OWN_QUERIES, 300 + seed),
    ]
    print(f"annotated after {time.perf_counter() - started:.0f} s")
    arguments = prm_arguments(
        work / "prm",
        num_train_epochs=epochs,
        learning_rate=1e-3,
        adam_beta2=0.98,
        per_device_train_batch_size=64,
        train_sampling_strategy="random",  # rows of similar length would be sums with the same number of terms
        save_strategy="no",
        logging_steps=100,
        seed=seed,
        use_cpu=True,
        bf16=False,
    )
    train_prm(str(trained), load_rows(annotated), args=arguments, separator="=")
    print(f"classifier trained after {time.perf_counter() - started:.0f} s")
    model = AutoModelForTokenClassification.from_pretrained(work / "prm", dtype=torch.float16)
    model.save_pretrained(output_dir)
    AutoTokenizer.from_pretrained(work / "prm").save_pretrained(output_dir)
    config = output_dir / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": "testbed-prm"}, indent=2) + "\n")


if __name__ == "__main__":
    main()
