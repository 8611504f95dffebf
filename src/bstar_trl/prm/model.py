"""A process reward model ready to score: its weights, its family, its tokenizer, and the device it lives on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoTokenizer, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from ..errors import ConfigurationError
from .formats import Layout, StepFormat, find_format
from .runner import run

CPU = torch.device("cpu")
QWEN_MATH = "Qwen2ForProcessRewardModel"


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """The architecture of Qwen2.5-Math-PRM, under the names of its published weights.

    Those come with code of their own, written for an older transformers; this needs none of it.
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


class StepModel:
    """Loads a process reward model, or takes a loaded one, and runs it.

    Not for several threads at a time.

    Args:
        model (`str` or `PreTrainedModel`): Hub id, folder, or a loaded model.
        format (`str` or `StepFormat`): its family, or `"auto"`.
        tokenizer (*optional*): None: loaded from the model's name.
        device (*optional*): where it scores. None: this process's GPU, or the CPU; a loaded model's own.
        dtype (*optional*): None: bf16 on a GPU, fp32 on the CPU; a loaded model's own.
        load_in_4bit (`bool`): NF4 weights, by bitsandbytes.
        offload (`bool`): whether it waits on the CPU between two calls.
        trust_remote_code (`bool`): whether code that comes with the weights may run.
        model_kwargs (`dict`, *optional*): for `from_pretrained`.

    Attributes:
        format (`StepFormat`): its family.
        context_length (`int`, *optional*): the most tokens it reads; None where its configuration does not say.

    Raises:
        ConfigurationError: an unknown family, or another family's tokenizer; bitsandbytes missing. Before any weight
            is loaded. And weights that cannot be loaded, or lack the family's head.
    """

    def __init__(
        self,
        model: Any,
        *,
        format: str | StepFormat = "auto",
        tokenizer: Any = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        load_in_4bit: bool = False,
        offload: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
    ):
        if not isinstance(model, str | os.PathLike | nn.Module):
            raise ConfigurationError(f"model must be a name, a folder or a loaded model, got {model!r}")
        is_path = not isinstance(model, nn.Module)
        model = str(model) if is_path else model
        kwargs = {**(_four_bits() if load_in_4bit else {}), **(model_kwargs or {})}
        with _explained(model if is_path else _class_name(model)):
            trust = {"trust_remote_code": trust_remote_code}
            config = AutoConfig.from_pretrained(model, **trust) if is_path else model.config
            self.tokenizer: Any = tokenizer or AutoTokenizer.from_pretrained(
                model if is_path else config._name_or_path, **trust
            )
        architecture = (config.architectures or [""])[0] if is_path else _class_name(model)
        self.format = find_format(format, architecture, config, self.tokenizer)
        self.context_length = _context_length(config)
        self._classes = self.format.classes(self.tokenizer, config)
        self._offload = offload
        self._is_ours = is_path
        self.device: torch.device = torch.device(device or (_default_device() if is_path else model.device))
        if is_path:
            own_class = architecture == QWEN_MATH and not trust_remote_code
            loader: Any = Qwen2ForProcessRewardModel if own_class else getattr(transformers, self.format.auto_class)
            kwargs.setdefault("dtype", dtype or (torch.float32 if self.device == CPU else torch.bfloat16))
            kwargs.setdefault("device_map", {"": CPU if offload else self.device})
            if not own_class:
                kwargs["trust_remote_code"] = trust_remote_code
            name = model
            with _explained(name):
                model, loading = loader.from_pretrained(name, output_loading_info=True, **kwargs)
            if loading["missing_keys"]:
                raise ConfigurationError(
                    f"{name} is no model of the family {type(self.format).__name__}: it has no weights for "
                    f"{', '.join(sorted(loading['missing_keys'])[:3])}"
                )
        elif dtype is not None:
            model = model.to(dtype)
        self.model: Any = model.eval()
        self._head = _head(model)

    def scores(self, layouts: Sequence[Layout], batch_tokens: int) -> tuple[list[np.ndarray], float]:
        """Each step's probability of being right; see [`~bstar_trl.process_rewards.runner.run`]."""
        with self._on_device():
            return run(
                self.model,
                self._head,
                layouts,
                self._classes,
                device=self.device,
                pad_token_id=self.tokenizer.pad_token_id or 0,
                batch_tokens=batch_tokens,
            )

    def rest(self) -> None:
        """Leave the device to others until the next call; a model that was handed over loaded stays where it is."""
        if self._is_ours:
            self._to_cpu()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        if self.model.device != self.device:
            self.model.to(self.device)
        # Another thread than the one that chose this process's GPU may call, and kernels of other libraries go by it.
        with torch.cuda.device(self.device if self.device.type == "cuda" else -1):
            try:
                yield
            finally:
                if self._offload:
                    self._to_cpu()

    def _to_cpu(self) -> None:
        if self.model.device != CPU:
            self.model.to(CPU)
            torch.cuda.empty_cache()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Says which model it was that cannot be loaded."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot load the model {name!r}, or its tokenizer: {error}") from error


def _default_device() -> torch.device:
    """This process's GPU, where there is one (`LOCAL_RANK`: what torchrun and accelerate set)."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return CPU


def _four_bits() -> dict[str, Any]:
    """Arguments of `from_pretrained` for NF4, computing in bf16, with the head left as it is."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigurationError(
            "load_in_4bit=True needs bitsandbytes, which is not installed: pip install 'bstar-trl[quantization]'"
        )
    return {
        "quantization_config": transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["lm_head", "score", "classifier"],
        )
    }


def _class_name(model: Any) -> str:
    """The class of a loaded model, behind an adapter too."""
    return type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__


def _head(model: Any) -> nn.Module:
    """The layer that turns hidden states into outputs."""
    head = getattr(model, "score", None) or getattr(model, "classifier", None) or model.get_output_embeddings()
    if head is None:
        raise ConfigurationError(
            f"{type(model).__name__} has no head: looked for `score`, `classifier` and output embeddings"
        )
    return head


def _context_length(config: Any) -> int | None:
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if length is None or length <= 0 else int(length)
