"""`StepModel`, a process reward model that scores steps: weights, tokenizer, family and device."""

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

from ..engines.padding import pad_rows
from ..errors import ConfigurationError, RewardError
from .formats import StepFormat, find_format
from .steps import Layout

CPU = torch.device("cpu")
QWEN_MATH = "Qwen2ForProcessRewardModel"


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """The architecture of Qwen2.5-Math-PRM, under the names of its published weights.

    The code published with the weights needs an older transformers; this class replaces it.
    """

    _keys_to_ignore_on_load_unexpected = [r"lm_head\.weight"]  # noqa: RUF012 - as in transformers

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
    """Loads a process reward model, or takes a loaded one, and runs it. One thread at a time may use it.

    Arguments and errors are those of `bstar_trl.rewards.ProcessReward`.

    Attributes:
        format (`StepFormat`): the model's family.
        context_length (`int`, *optional*): the most tokens the model reads; None if its configuration sets no limit.
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
        self._was_loaded_here = is_path
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
                missing = ", ".join(sorted(loading["missing_keys"])[:3])
                family = type(self.format).__name__
                raise ConfigurationError(f"{name} is no model of the family {family}: it has no weights for {missing}")
        elif dtype is not None:
            model = model.to(dtype)
        self.model: Any = model.eval()
        self._head = _head(model)

    def scores(self, layouts: Sequence[Layout], batch_tokens: int) -> tuple[list[np.ndarray], float]:
        """Each step's probability of being right; one forward pass per response, whatever its number of steps.

        Args:
            layouts (`Sequence[Layout]`): the responses.
            batch_tokens (`int`): tokens per forward pass, padding included.

        Returns:
            `(list[np.ndarray], float)`: one array of shape (steps,) per response, in 0..1; and the mean probability,
                over all steps, of the two outputs for *wrong* and *right* together.

        Raises:
            RewardError: the model's output is not finite.
        """
        scores: list[np.ndarray] = [np.empty(0)] * len(layouts)
        shares = []
        with self._on_device():
            for batch in pack([len(item.token_ids) for item in layouts], batch_tokens):
                scores_S, shares_S = self._score_batch([layouts[index] for index in batch])
                ends = np.cumsum([len(layouts[index].positions) for index in batch])
                for index, part in zip(batch, np.split(scores_S, ends[:-1]), strict=True):
                    scores[index] = part
                shares.append(shares_S)
        return scores, float(np.concatenate(shares).mean()) if shares else 1.0

    def _score_batch(self, layouts: Sequence[Layout]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of *right* and shares of the two outputs, for the steps of all responses in order."""
        token_ids_BT, mask_BT = pad_rows(
            [item.token_ids for item in layouts], self.tokenizer.pad_token_id or 0, "right"
        )
        counts_B = torch.tensor([len(item.positions) for item in layouts])
        rows_S = torch.repeat_interleave(torch.arange(len(layouts)), counts_B).to(self.device)
        positions_S = torch.tensor([place for item in layouts for place in item.positions], device=self.device)
        inputs = {"input_ids": token_ids_BT.to(self.device), "attention_mask": mask_BT.to(self.device)}
        with torch.inference_mode(), _head_at(self._head, rows_S, positions_S):
            outputs = self.model(**inputs, use_cache=False)
            logits_SC = outputs[0].float() if isinstance(outputs, tuple) else outputs.logits.float()
            logits_S2 = logits_SC[:, list(self._classes)]
            scores_S = torch.softmax(logits_S2, dim=-1)[:, 1].cpu().numpy()
            shares_S = (logits_S2.logsumexp(-1) - logits_SC.logsumexp(-1)).exp().cpu().numpy()
        if not np.isfinite(scores_S).all():
            raise RewardError(
                "the process reward model gave outputs that are not finite; load it in bf16 or fp32 (dtype=...)"
            )
        return scores_S, shares_S

    def rest(self) -> None:
        """Move weights that were loaded here to the CPU until the next call; a model passed in loaded stays."""
        if self._was_loaded_here:
            self._to_cpu()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        if self.model.device != self.device:
            self.model.to(self.device)
        # The calling thread may have another current GPU, and kernels of other libraries launch on the current one.
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


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Batches of sequences of similar length, of at most `batch_tokens` tokens with padding.

    A longer sequence gets a batch of its own. The longest sequences come first, so that a batch too large for the
    memory fails at once.

    Returns:
        `list[list[int]]`: every index once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


@contextmanager
def _head_at(head: nn.Module, rows_S: torch.Tensor, positions_S: torch.Tensor) -> Iterator[None]:
    """Restrict the head to these positions of these rows: it returns (S, classes) instead of (B, T, classes).

    Logits of a whole vocabulary at every token would cost more than the rest of the scoring.
    """
    handle = head.register_forward_pre_hook(lambda module, inputs: (inputs[0][rows_S, positions_S], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn loading errors into a `ConfigurationError` that names the model."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot load the model {name!r}, or its tokenizer: {error}") from error


def _default_device() -> torch.device:
    """This process's GPU if there is one, else the CPU; torchrun and accelerate set `LOCAL_RANK`."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return CPU


def _four_bits() -> dict[str, Any]:
    """Arguments of `from_pretrained` for NF4 weights, computing in bf16; the head is not quantised."""
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
    """The class name of a loaded model, or of the base model of an adapter."""
    return type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__


def _head(model: Any) -> nn.Module:
    """The layer that maps hidden states to outputs."""
    head = getattr(model, "score", None) or getattr(model, "classifier", None) or model.get_output_embeddings()
    if head is None:
        raise ConfigurationError(
            f"{type(model).__name__} has no head: looked for `score`, `classifier` and output embeddings"
        )
    return head


def _context_length(config: Any) -> int | None:
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if length is None or length <= 0 else int(length)
