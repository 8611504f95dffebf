"""Tiny models, tokenizers and datasets that every test can train in a second; nothing is downloaded."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bstar_trl import BSTaRConfig, BSTaRTrainer

CONFIG_FIELDS = {item.name for item in dataclasses.fields(BSTaRConfig)}
TESTS = Path(__file__).parent
DATA = TESTS / "data"  # some thirty rows of each kind
SHARED = TESTS.parents[1] / "shared"  # large samples beside the repository where it is developed; users lack them
LETTERS = "abcdefgh0123456789+=. \n"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}={{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a={% endif %}"
)


def skip_without(path: Path) -> Path:
    """A file of `SHARED`; the test is skipped where it is missing. A missing file of `DATA` is an error."""
    if path.is_relative_to(SHARED) and not path.exists():
        pytest.skip(f"{path.name} is a large sample that is not part of the repository")
    return path


def read_rows(path: Path) -> list[dict]:
    """The rows of a file of JSON lines in `DATA` or `SHARED`."""
    return [json.loads(line) for line in skip_without(path).read_text(encoding="utf-8").splitlines()]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token per character; PAD and EOS are two different tokens, and there is no BOS."""
    words = ["<pad>", "<eos>", "<unk>", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_config(**changes) -> LlamaConfig:
    """Two layers, 32 wide: 0.05 s a training step."""
    return LlamaConfig(
        **{
            "vocab_size": len(LETTERS) + 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
            "initializer_range": 0.2,
            **changes,
        }
    )


def make_model(seed: int = 0, **changes) -> LlamaForCausalLM:
    """Random weights. It says nothing sensible, but it ends most of its responses."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(make_config(**changes)).float()


def make_gpt2(positions: int) -> GPT2LMHeadModel:
    """Random weights; its positions are embeddings, and there is none behind the last."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(LETTERS) + 3, "n_positions": positions, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, initializer_range=0.2, bos_token_id=None, eos_token_id=1, pad_token_id=0)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return GPT2LMHeadModel(config).float()


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> str:
    """A policy and its tokenizer on disk, as a user would name them."""
    path = str(tmp_path_factory.mktemp("policy") / "tiny-policy")
    make_model().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def reward_model_path(tmp_path_factory) -> str:
    """A sequence classifier with one label, and its tokenizer."""
    path = str(tmp_path_factory.mktemp("reward") / "tiny-reward")
    torch.manual_seed(1)
    LlamaForSequenceClassification(make_config(num_labels=1)).float().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def make_dataset(rows: int = 17) -> Dataset:
    """Plain prompts with an answer column."""
    return Dataset.from_dict(
        {"prompt": [f"{index % 10}+{index % 7}=" for index in range(rows)], "answer": list("0123456789" * rows)[:rows]}
    )


def make_chat_dataset(rows: int = 17) -> Dataset:
    """The same as conversations."""
    plain = make_dataset(rows)
    return Dataset.from_dict(
        {"prompt": [[{"role": "user", "content": text}] for text in plain["prompt"]], "answer": plain["answer"]}
    )


def text_of(completion) -> str:
    """A completion in either of TRL's forms."""
    return completion if isinstance(completion, str) else completion[0]["content"]


def has_digit(completions, **kwargs) -> list[float]:
    """A verifier that a random policy satisfies about half of the time."""
    return [float(any(letter.isdigit() for letter in text_of(item)[:4])) for item in completions]


def make_trainer(output_dir, model_path, *, trainer=BSTaRTrainer, **changes):
    """A trainer that needs seconds: 17 queries, K = 3, 9 steps an iteration, fp32. Config fields go to the config."""
    own = {
        "reward_funcs": has_digit,
        "train_dataset": make_dataset(),
        **{name: changes.pop(name) for name in list(changes) if name not in CONFIG_FIELDS},
    }
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 3,
        "num_generations": 3,
        "max_completion_length": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }
    return trainer(model=model_path, args=BSTaRConfig(**settings), **own)
