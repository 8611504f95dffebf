"""Policies for real rows that are small enough to train here: they know the form of an answer, and guess."""

from __future__ import annotations

import torch
from conftest import make_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import PreTrainedTokenizerFast


def make_text_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A token per character of these texts."""
    letters = sorted(set("".join(texts)) | set("#0123456789 "))
    words = ["<pad>", "<eos>", "<unk>", *letters]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def teach(path: str, tokenizer: PreTrainedTokenizerFast, prompts: list[str], answers: list[str]) -> None:
    """Train a tiny model to follow any prompt with any of the answers, all of one length, and save it."""
    model = make_model(vocab_size=len(tokenizer), max_position_embeddings=1024, initializer_range=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    length = len(tokenizer(answers[0] + tokenizer.eos_token)["input_ids"])
    for step in range(120):
        chosen = torch.randint(len(answers), (4,), generator=generator).tolist()
        texts = [
            prompts[(4 * step + place) % len(prompts)][-60:] + answers[index] + tokenizer.eos_token
            for place, index in enumerate(chosen)
        ]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -length:] = batch["input_ids"][:, -length:]
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def make_guesser(path: str, prompts: list[str]) -> None:
    """A policy that writes `#### d` with some digit d: right by luck now and then, as a weak model is."""
    teach(path, make_text_tokenizer(prompts), prompts, [f"\n#### {digit}" for digit in range(1, 10)])


def make_programmer(path: str, rows: list[dict]) -> None:
    """A policy that writes one of the rows' solutions, whichever: a token each. Right one time in `len(rows)`."""
    prompts = [row["prompt"] for row in rows]
    programs = [f"```python\n{row['solution'].strip()}\n```" for row in rows]
    tokenizer = make_text_tokenizer(prompts)
    tokenizer.add_tokens(programs)
    teach(path, tokenizer, prompts, programs)
