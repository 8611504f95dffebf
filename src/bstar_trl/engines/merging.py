"""Copies of models in which adapters are merged into the weights, for sampling alone.

An adapter costs two more products per layer and token. While sampling, the weights stand still, so its change is added
to a copy of the weights once. The model itself is not touched.
"""

from __future__ import annotations

import copy
import functools
import logging
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight

from ..errors import ConfigurationError, UnsupportedOptionError
from .memory import free_cached_memory, free_memory, is_out_of_memory

logger = logging.getLogger(__name__)
Merge = Literal["auto", "always", "never"]
MERGE: dict[str, Merge] = {"auto": "auto", "always": "always", "true": "always", "never": "never", "false": "never"}
SHARE_OF_FREE = 0.5  # of the free memory, which a copy may take: the rest is for caches


def as_merge(value: Any) -> Merge:
    """What `merge_for_sampling` says: `"auto"`, `"always"` or `True`, `"never"` or `False`.

    Raises:
        ConfigurationError: it says something else.
    """
    merge = MERGE.get(str(value).lower())
    if merge is None:
        raise ConfigurationError(
            f"merge_for_sampling must be 'auto', 'always' (or True) or 'never' (or False), got {value!r}"
        )
    return merge


@contextmanager
def merged(
    model: torch.nn.Module, merge: Merge = "auto", dtype: torch.dtype | None = None
) -> Iterator[torch.nn.Module]:
    """Within: a copy of the model whose adapters are merged, or the model itself.

    The copy shares every weight without an adapter with the model. A 4-bit weight under a LoRA becomes a plain one in
    the copy. The sums are rounded to the weights' precision, as they are when TRL hands weights to vLLM.

    Args:
        model: a model with adapters, or without any.
        merge (`str`): `"auto"` makes a copy if all adapters can be merged and the copy takes less than half of the
            free memory; `"always"` makes one in any case, `"never"` in none.
        dtype (`torch.dtype`, *optional*): of autocast, if the model is used under it: the copy then holds the weights
            of all linear layers in this precision, and nothing is cast at every step.

    Raises:
        UnsupportedOptionError: `merge` is `"always"`, and there are adapters that cannot be merged.
    """
    source: torch.nn.Module = getattr(model, "_orig_mod", model)  # of a compiled model
    layers = [module for module in source.modules() if isinstance(module, BaseTunerLayer)]
    if merge == "never" or not any(_is_open(layer) for layer in layers):
        yield model
        return
    device = next(source.parameters()).device
    obstacle = _obstacle_of(source, layers) or (_lack_of_memory(source, layers, dtype) if merge == "auto" else None)
    merged_model = None
    if obstacle is None:
        try:
            merged_model = _merged_copy(source, layers, dtype)
        except NotImplementedError as error:  # some kinds of adapters find out only when they try
            obstacle = str(error)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            obstacle = "memory ran out while the copy was made"
    if merged_model is None:
        if merge == "always":
            raise UnsupportedOptionError(f"merge_for_sampling='always' cannot be done: {obstacle}. Set it to 'auto'")
        _say_once(f"Sampling with unmerged adapters, which is slower: {obstacle}.")
        yield model
        return
    try:
        yield merged_model
    finally:
        del merged_model
        free_cached_memory(device)


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def _merged_copy(
    model: torch.nn.Module, layers: Sequence[BaseTunerLayer], dtype: torch.dtype | None
) -> torch.nn.Module:
    # Whatever stands in `memo` is taken into the copy as it is: tensors are shared, and the base layers under adapters
    # are replaced by layers with weights of their own. So only modules are copied, which takes no memory to speak of.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    bases = {id(layer.get_base_layer()): layer.get_base_layer() for layer in layers if _is_open(layer)}
    with torch.no_grad():
        memo |= {key: _own_layer(base, model) for key, base in bases.items()}
        result = copy.deepcopy(model, memo)
        for outer in _outer_models(result):
            # What TRL and accelerate wrap around a model's own `forward` calls the model, not the copy. Sampling needs
            # no fused likelihood, and mixed precision is the caller's.
            vars(outer).pop("forward", None)
        for layer in [module for module in result.modules() if isinstance(module, BaseTunerLayer)]:
            if _is_open(layer):
                _merge(layer)
            if dtype is not None:
                _cast(layer.get_base_layer(), dtype)
        if dtype is not None:
            for module in result.modules():
                if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad:
                    _cast(module, dtype)
    return result


def _own_layer(base: torch.nn.Module, model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a layer with weights of its own, which are dequantised."""
    if not _is_4_bit(base):
        return copy.deepcopy(base)
    weight = dequantize_module_weight(base).to(_precision(model))
    layer = torch.nn.Linear(1, 1, bias=False, device="meta")  # which draws no random numbers
    layer.out_features, layer.in_features = weight.shape
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    layer.bias = base.bias  # type: ignore[assignment]
    return layer


def _merge(layer: BaseTunerLayer) -> None:
    base: Any = layer.get_base_layer()
    if not (isinstance(layer, LoraLayer) and "bnb" in type(layer).__module__):
        layer.merge()
        return
    lora: Any = layer
    for adapter in lora.active_adapters:  # peft's own merge would expect the quantised weight
        if adapter in lora.lora_A:
            base.weight.add_(lora.get_delta_weight(adapter))
            lora.merged_adapters.append(adapter)


def _cast(layer: torch.nn.Module, dtype: torch.dtype) -> None:
    if isinstance(layer, torch.nn.Linear) and layer.weight.dtype == torch.float32:
        layer.weight = torch.nn.Parameter(layer.weight.to(dtype), requires_grad=False)


def _is_open(layer: BaseTunerLayer) -> bool:
    """Whether a layer computes its adapter's change at every step."""
    adapters = {name for part in layer.adapter_layer_names for name in getattr(layer, part, ())}
    return not (layer.merged or layer.disable_adapters) and any(name in adapters for name in layer.active_adapters)


def _outer_models(model: torch.nn.Module) -> list[torch.nn.Module]:
    """A model, and what a `PeftModel` wraps."""
    return [model, model.get_base_model()] if isinstance(model, PeftModel) else [model]


def _obstacle_of(model: torch.nn.Module, layers: Sequence[BaseTunerLayer]) -> str | None:
    """Why a model cannot be copied with its adapters merged, if so."""
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "the weights are on several devices"
    configs = getattr(model, "peft_config", {}).values()
    if any(getattr(config, "ensure_weight_tying", False) for config in configs):
        return "peft has tied the adapters of embedding and head, which cannot be copied"
    outer = _outer_models(model)
    for name, module in model.named_modules():
        replaced = vars(module).get("forward")
        # A closure calls what it was made of; methods and partial functions are copied with the module.
        if replaced is None or module in outer or isinstance(replaced, types.MethodType | functools.partial):
            continue
        if any(isinstance(part, BaseTunerLayer) for part in module.modules()):
            return f"the forward of {name} was replaced by another library"
    return next(filter(None, map(_obstacle, layers)), None)


def _lack_of_memory(model: torch.nn.Module, layers: Sequence[BaseTunerLayer], dtype: torch.dtype | None) -> str | None:
    needed, free = _copied_bytes(model, layers, dtype), free_memory(next(model.parameters()).device)
    if free is None:
        return "how much memory is free is unknown"
    if needed <= SHARE_OF_FREE * free:
        return None
    return f"a merged copy takes {needed / 2**30:.1f} GiB, more than {SHARE_OF_FREE:.0%} of the free memory"


def _obstacle(layer: BaseTunerLayer) -> str | None:
    """Why a layer's adapter cannot be merged into a copy of its weights, if so."""
    base: Any = layer.get_base_layer()
    name = type(layer).__name__
    variants = {type(item).__name__ for item in getattr(layer, "lora_variant", {}).values()}
    if type(layer).merge is BaseTunerLayer.merge:
        return f"peft cannot merge adapters of the kind {name}"
    if _is_4_bit(base):
        if getattr(base.weight.quant_state, "packing_format_for_cpu", False):
            return "bitsandbytes has laid its 4-bit weights out for inference on the CPU"
        special = variants or any(getattr(layer, "lora_bias", {}).values())
        return None if isinstance(layer, LoraLayer) and not special else f"{name} cannot be merged into 4-bit weights"
    if unmergeable := sorted(item for item in variants if not item.startswith("Dora")):
        return f"peft cannot merge adapters of the kind {unmergeable[0]}"
    weights = list(base.parameters())
    if not weights or not all(item.is_floating_point() and item.dtype.itemsize > 1 for item in weights):
        return f"the weights of {type(base).__name__} are quantised"
    return None


def _copied_bytes(model: torch.nn.Module, layers: Sequence[BaseTunerLayer], dtype: torch.dtype | None) -> int:
    bases: dict[int, Any] = {id(layer.get_base_layer()): layer.get_base_layer() for layer in layers if _is_open(layer)}
    total = 0
    for base in bases.values():
        if _is_4_bit(base):
            total += base.in_features * base.out_features * _precision(model).itemsize
        else:
            total += sum(tensor.numel() * tensor.element_size() for tensor in base.parameters())
    if dtype is None:
        return total
    others = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and id(module) not in bases]
    return total + sum(item.weight.numel() * dtype.itemsize for item in others if not item.weight.requires_grad)


def _is_4_bit(layer: torch.nn.Module) -> bool:
    return type(getattr(layer, "weight", None)).__name__ == "Params4bit"


def _precision(model: torch.nn.Module) -> torch.dtype:
    """The precision in which a model's layers hand values on: that of its embedding."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype  # type: ignore[operator]
    return dtype
