"""Base weights that a sync with vLLM leaves as they are, and the quantisation that no sync can push."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedConfig

from ..errors import UnsupportedOptionError

WHERE_FROM = ("revision", "cache_dir", "token", "subfolder", "local_files_only")  # how `from_pretrained` finds files


@contextmanager
def unmerged_copy(model: torch.nn.Module) -> Iterator[None]:
    """Give every base weight under an adapter back bit by bit after the adapter was merged and unmerged.

    TRL's sync merges an adapter into the base weights and unmerges it again. Each time leaves a rounding error, in
    every precision, and the errors add up over the syncs. 4-bit weights are quantised anew twice.

    Plain weights are merged in place, so their values wait on the CPU. A quantised weight is never added to in place:
    peft puts a new parameter where the old one was. The old one is kept as it is, and put back; until then its packed
    values take memory beside the new ones (half a byte per weight in 4 bits).

    After an error within, the adapter counts as unmerged again, too.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    bases = dict.fromkeys(part for layer in layers for part in layer.get_base_layer().modules())
    tensors = {id(tensor): tensor for base in bases for tensor in _tensors(base)}
    attributes = {key: dict(vars(tensor)) for key, tensor in tensors.items()}
    values = {key: item.data.to("cpu", copy=True) for key, item in tensors.items() if item.is_floating_point()}
    kept_layers = [(layer, list(layer.merged_adapters), dict(layer._modules)) for layer in layers]
    kept_bases = [(base, list(_tensors(base)), _contents(base)) for base in bases]
    try:
        yield
    finally:
        for layer, merged_adapters, modules in kept_layers:
            layer.merged_adapters[:] = merged_adapters
            layer._modules.update(modules)
        for key, value in values.items():
            tensors[key].data.copy_(value)
        for base, old, contents in kept_bases:
            if [id(tensor) for tensor in _tensors(base)] == [id(tensor) for tensor in old]:
                continue
            _refill(_places(base), contents)
            for tensor in old:
                _refill([vars(tensor)], [attributes[id(tensor)]])  # peft marks the old weight as not quantised


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The parameters and buffers of the module itself."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _places(module: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    """Where a module keeps what belongs to it; bitsandbytes keeps a quantisation's state at the layer, too."""
    return vars(module), module._parameters, module._buffers


def _contents(module: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    return tuple(dict(place) for place in _places(module))


def _refill(places: Sequence[dict[str, Any]], contents: Sequence[dict[str, Any]]) -> None:
    for place, content in zip(places, contents, strict=True):
        place.clear()
        place.update(content)


def keep_4_bit_layout(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from laying 4-bit weights out anew on the CPU, for good, as soon as a model samples.

    On processors with AVX512-BF16 it does so for inference; gradients do not pass through such a layer, and nothing
    else can read its weights.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def refuse_8_bit(model: Any, quantization_config: Any, model_init_kwargs: Mapping[str, Any] | None) -> None:
    """Refuse a model in 8 bits, whose weights TRL cannot push to vLLM.

    Args:
        model: a name, a folder, or a loaded model.
        quantization_config: the trainer's argument; an object or a dict.
        model_init_kwargs (*optional*): the config's.

    Raises:
        UnsupportedOptionError: the model is loaded in 8 bits, or would be.
    """
    kwargs = model_init_kwargs or {}
    if isinstance(model, torch.nn.Module):
        is_8_bit = any(type(module).__name__ == "Linear8bitLt" for module in model.modules())
    else:
        wanted = (quantization_config, kwargs.get("quantization_config"), kwargs, _saved_quantization(model, kwargs))
        is_8_bit = any(_option(item, "load_in_8bit") for item in wanted)
    if is_8_bit:
        raise UnsupportedOptionError(
            "a model in 8 bits (load_in_8bit=True) is not supported with use_vllm=True, because TRL cannot push its "
            "weights to vLLM: load it in 4 bits (load_in_4bit=True) or in bf16, or set use_vllm=False"
        )


def _saved_quantization(model: str, kwargs: Mapping[str, Any]) -> Any:
    """The quantisation that the model was saved with, if any; loading reports a model that cannot be found."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(
            model, **{key: kwargs[key] for key in WHERE_FROM if key in kwargs}
        )
    except (OSError, ValueError):
        return None
    return config.get("quantization_config")


def _option(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
