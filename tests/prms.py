"""Tiny process reward models of the public families: random weights, the families' architectures and token layouts."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import make_config, make_tokenizer
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
)

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


def make_token_classifier(path: Path, *, bos: bool = False, **changes) -> str:
    """A Llama with two classes per token, and a tokenizer of one token per character."""
    torch.manual_seed(0)
    config = make_config(num_labels=2, max_position_embeddings=512, **changes)
    LlamaForTokenClassification(config).float().save_pretrained(path)
    tokenizer = make_tokenizer()
    if bos:
        tokenizer.bos_token = "<eos>"
    tokenizer.save_pretrained(path)
    return str(path)


def make_math_shepherd(path: Path) -> str:
    """A Mistral with a tokenizer as SentencePiece makes them: `▁` for a blank, bytes for what it does not know."""
    letters = [chr(code) for code in range(33, 127)]
    words = [
        *("<unk>", "<s>", "</s>"),
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *letters,
        *("▁", "к", "и", "▁к", "▁ки", "▁+", "▁-", "th", "the", "▁the", "▁=", "▁S"),
    ]
    merges = [("▁", "к"), ("▁к", "и"), ("▁", "+"), ("▁", "-"), ("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "=")]
    merges.append(("▁", "S"))
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(1)
    config = MistralConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, sliding_window=None, **SMALL)
    MistralForCausalLM(config).float().save_pretrained(path)
    return str(path)


def make_byte_tokenizer(specials: list[str], template: str, **tokens: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Llama 3 and Qwen have it; a blank line is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: index for index, word in enumerate([*letters, "ĊĊ", "Ġ+"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ"), ("Ġ", "+")]))
    words = Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(item, special=True) for item in specials])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    fast.chat_template = template
    return fast


def make_rlhflow(path: Path) -> str:
    """A Llama with Llama 3's tokens and turns."""
    tokenizer = make_byte_tokenizer(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        LLAMA_TEMPLATE,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )
    tokenizer.save_pretrained(path)
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None, **SMALL)
    LlamaForCausalLM(config).float().save_pretrained(path)
    return str(path)


REMOTE_CONFIGURATION = """
from transformers import Qwen2Config


class Qwen2RMConfig(Qwen2Config):
    pass
"""
REMOTE_MODEL = """
from torch import nn
from transformers import Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from .configuration_qwen2_rm import Qwen2RMConfig


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    config_class = Qwen2RMConfig

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):
        hidden = self.model(input_ids, attention_mask=attention_mask, use_cache=use_cache)[0]
        return TokenClassifierOutput(logits=self.score(hidden))
"""


def make_qwen(path: Path) -> tuple[str, torch.nn.Module, torch.nn.Module]:
    """A folder as it is published: weights by name, and code of its own. Also its backbone and head as they are."""
    tokenizer = make_byte_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"],
        QWEN_TEMPLATE,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.save_pretrained(path)
    torch.manual_seed(3)
    width = SMALL["hidden_size"]
    config = Qwen2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None, **SMALL)
    backbone = Qwen2Model(config).float().eval()
    head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    head[2].weight.data *= 8  # so that the scores differ
    weights = {f"model.{name}": item for name, item in backbone.state_dict().items()}
    weights |= {f"score.{name}": item for name, item in head.state_dict().items()}
    weights["lm_head.weight"] = torch.zeros(len(tokenizer), width)  # the published ones hold it, of no use
    save_file(
        {name: item.contiguous() for name, item in weights.items()}, path / "model.safetensors", {"format": "pt"}
    )
    published = config.to_dict() | {
        "architectures": ["Qwen2ForProcessRewardModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
            "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        },
    }
    (path / "config.json").write_text(json.dumps(published))
    (path / "configuration_qwen2_rm.py").write_text(REMOTE_CONFIGURATION)
    (path / "modeling_qwen2_rm.py").write_text(REMOTE_MODEL)
    return str(path), backbone, head
