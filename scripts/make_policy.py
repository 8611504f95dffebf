"""Make the testbed's starting policy: `python scripts/make_policy.py` (2 to 6 minutes on one core).

The script trains on sums of 2-4 terms until chains of 4 terms are valid 85 % of the time, then on sums of 2-6 terms
until chains of 5 terms are valid 28-35 % of the time. Validity ends each stage, not a step count, because the learning
has a plateau that some seeds never leave. After 1,500 steps on the plateau the script tries the next seed.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bstar_trl.testbed.task import draw_prompts, is_held_out, is_valid, prompt_of, random_chain, random_terms

FOLDER = Path(__file__).parents[1] / "src" / "bstar_trl" / "testbed" / "policy"
ALPHABET = "0123456789+="
BATCH_SIZE = 64
PLATEAU_STEPS = 1500
WARM_VALID = 0.85
QUERIES = 5000  # half of all held-out sums of 5 terms: a standard error of 0.7 %
AIM = (0.305, 0.34)  # narrower than 28-35 %, which another measurement must find too


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and separate tokens for padding and EOS. `AutoTokenizer` can load it."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )


def make_model(seed: int) -> LlamaForCausalLM:
    """0.36 M parameters: 3 layers, width 96, 3 heads of 32 (a head size that vLLM supports on a CPU)."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(ALPHABET) + 2,
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).float()
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1)
    return model


def make_batch(rng: np.random.Generator, tokenizer, weights: dict[int, float]) -> dict[str, torch.Tensor]:
    """Fresh sums outside the held-out part, each with a random valid chain; the loss covers chain and EOS."""
    texts = []
    counts = rng.choice(list(weights), size=BATCH_SIZE, p=np.array(list(weights.values())) / sum(weights.values()))
    for count in counts.tolist():
        terms = random_terms(rng, count)
        while count > 4 and is_held_out(prompt_of(terms)):
            terms = random_terms(rng, count)
        texts.append((prompt_of(terms), random_chain(rng, terms) + tokenizer.eos_token))
    tokens = tokenizer([prompt + chain for prompt, chain in texts], padding=True, padding_side="right")
    input_ids = torch.tensor(tokens["input_ids"])
    mask = torch.tensor(tokens["attention_mask"])
    labels = input_ids.masked_fill(mask == 0, -100)
    for row, (prompt, _) in enumerate(texts):
        labels[row, : len(prompt)] = -100
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


@torch.no_grad()
def valid_share(model: LlamaForCausalLM, tokenizer, terms: int, queries: int, seed: int) -> float:
    """Share of valid chains at T = 1."""
    prompts = draw_prompts(queries, (terms,), seed=seed, held_out=terms > 4)
    model.eval()
    inputs = tokenizer(prompts, return_tensors="pt")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=40)
    model.train()
    completions = output[:, inputs["input_ids"].shape[1] :]
    ended = (completions == tokenizer.eos_token_id).any(dim=1).tolist()
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    return float(
        np.mean([end and is_valid(*pair) for end, pair in zip(ended, zip(prompts, texts, strict=True), strict=True)])
    )


def teach(model, tokenizer, rng, weights, learning_rate: float, look_every: int, stop, give_up: int | None) -> bool:
    """Train until `stop(step)`; False if `give_up` steps are not enough."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    started = time.perf_counter()
    for step in itertools.count(1):
        loss = model(**make_batch(rng, tokenizer, weights)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % look_every == 0:
            print(f"step {step} loss {loss.item():.3f} {time.perf_counter() - started:.0f} s", end=" ", flush=True)
            if stop(step):
                return True
            if give_up is not None and step >= give_up:
                return False
    raise AssertionError("unreachable")


def make_policy(seed: int, tokenizer) -> LlamaForCausalLM | None:
    """A policy from this seed, or None if it stayed on the plateau or overshot the goal."""
    model = make_model(seed)
    print(f"seed {seed}: {sum(item.numel() for item in model.parameters()):,} parameters")
    rng = np.random.default_rng(seed)
    last = 0.0

    def is_warm(step: int) -> bool:
        nonlocal last
        last = valid_share(model, tokenizer, 4, 200, seed=1)
        print(f"4 terms valid {last:.3f}", flush=True)
        return last >= WARM_VALID

    def left_plateau(step: int) -> bool:
        return is_warm(step) or (step >= PLATEAU_STEPS and last > 0.4)

    warm = {2: 1.0, 3: 1.0, 4: 1.0}
    if not teach(model, tokenizer, rng, warm, 1e-3, 100, left_plateau, PLATEAU_STEPS):
        return None
    if last < WARM_VALID and not teach(model, tokenizer, rng, warm, 1e-3, 50, is_warm, 3000):
        return None
    reached = 0.0

    def is_ready(step: int) -> bool:
        nonlocal reached
        reached = valid_share(model, tokenizer, 5, QUERIES, seed=2)
        print(f"5 terms valid {reached:.3f}", flush=True)
        return reached >= AIM[0]

    teach(model, tokenizer, rng, {2: 5, 3: 10, 4: 25, 5: 40, 6: 20}, 5e-4, 10, is_ready, 1000)
    return model if reached <= AIM[1] else None


def main() -> None:
    """Try seeds until one gives a policy; save the policy, load it again, and measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the first seed to try")
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = None
    for seed in itertools.count(parsed.seed):
        model = make_policy(seed, tokenizer)
        if model is not None:
            break
    model.save_pretrained(parsed.output_dir)
    tokenizer.save_pretrained(parsed.output_dir)
    loaded = LlamaForCausalLM.from_pretrained(parsed.output_dir)
    for terms in (4, 5, 6):
        queries = QUERIES if terms > 4 else 500
        print(f"{terms} terms valid {valid_share(loaded, tokenizer, terms, queries, seed=3):.3f}")


if __name__ == "__main__":
    main()
