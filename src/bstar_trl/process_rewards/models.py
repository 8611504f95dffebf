"""Loading a process reward model: which class, on which device, in which precision."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from ..errors import ConfigurationError
from .formats import StepFormat

QWEN_MATH = "Qwen2ForProcessRewardModel"


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """The architecture of Qwen2.5-Math-PRM, under the names of its published weights.

    Those come with code of their own, which no longer runs with current transformers; this needs none of it.
    """

    _keys_to_ignore_on_load_unexpected = [r"lm_head\.weight"]  # noqa: RUF012 - transformers declares it so

    def __init__(self, config: Any):
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, 2)
        )
        self.post_init()

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> TokenClassifierOutput:
        """Logits of *wrong* and *right* for every token."""
        hidden = self.model(input_ids=input_ids, **kwargs).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))


def default_device() -> torch.device:
    """This process's GPU, where there is one (`LOCAL_RANK`: what torchrun and accelerate set)."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def quantization_of(load_in_4bit: bool) -> dict[str, Any]:
    """Arguments of `from_pretrained` for 4 bits (NF4, computing in bf16), with the head left as it is.

    Raises:
        ConfigurationError: bitsandbytes is missing.
    """
    if not load_in_4bit:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigurationError(
            "load_in_4bit=True needs bitsandbytes, which is not installed: pip install bitsandbytes"
        )
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head", "score", "classifier"],
    )
    return {"quantization_config": config}


def load_model(
    path: str,
    step_format: StepFormat,
    architecture: str,
    *,
    device: torch.device,
    trust_remote_code: bool,
    **kwargs: Any,
) -> PreTrainedModel:
    """A process reward model with its weights, in evaluation mode, on a device.

    Args:
        path (`str`): Hub id or folder.
        step_format (`StepFormat`): its family.
        architecture (`str`): its class, as its config says.
        device (`torch.device`): where to.
        trust_remote_code (`bool`): whether code that comes with the weights may run.
        **kwargs: for `from_pretrained`.
    """
    loader: Any = getattr(transformers, step_format.auto_class)
    if architecture == QWEN_MATH and not trust_remote_code:
        loader = Qwen2ForProcessRewardModel
    else:
        kwargs["trust_remote_code"] = trust_remote_code
    model: PreTrainedModel = loader.from_pretrained(path, device_map={"": device}, **kwargs)
    return model.eval()


def architecture_of(config: Any) -> str:
    """The class that a config names, or `""`."""
    return (getattr(config, "architectures", None) or [""])[0]


def class_of(model: Any) -> str:
    """The class of a loaded model, behind an adapter too."""
    return type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__


def head_of(model: Any) -> nn.Module:
    """The layer that turns hidden states into outputs.

    Raises:
        ConfigurationError: there is none under any of the usual names.
    """
    head = getattr(model, "score", None) or getattr(model, "classifier", None) or model.get_output_embeddings()
    if head is None:
        raise ConfigurationError(
            f"{type(model).__name__} has no head: looked for `score`, `classifier` and output embeddings"
        )
    return head


def context_length(config: Any) -> int | None:
    """The most tokens a model reads, or `None` where its config does not say."""
    text_config = config.get_text_config()
    length = getattr(text_config, "max_position_embeddings", None)
    return None if length is None or length <= 0 else int(length)
