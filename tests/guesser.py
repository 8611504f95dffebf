"""A policy for real word problems that is small enough to train here: it guesses a digit."""

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


def make_guesser(path: str, prompts: list[str]) -> None:
    """A policy that writes `#### d` with some digit d: right by luck now and then, as a weak model is."""
    tokenizer = make_text_tokenizer(prompts)
    model = make_model(vocab_size=len(tokenizer), max_position_embeddings=1024, initializer_range=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(120):
        texts = []
        for prompt in [prompts[(4 * step + place) % len(prompts)] for place in range(4)]:
            digit = int(torch.randint(1, 10, (1,), generator=generator))
            texts.append((prompt[-60:], f"\n#### {digit}" + tokenizer.eos_token))
        batch = tokenizer([prompt + answer for prompt, answer in texts], padding=True, return_tensors="pt")
        length = len(tokenizer(texts[0][1])["input_ids"])
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -length:] = batch["input_ids"][:, -length:]
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
