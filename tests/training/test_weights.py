"""Base weights and quantisation states are the same, bit by bit, however often an adapter was merged and unmerged."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from conftest import make_config, make_dataset, make_model, make_tokenizer, make_trainer
from peft import LoHaConfig, LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MixtralConfig, MixtralForCausalLM

from bstar_trl import Request
from bstar_trl.errors import UnsupportedOptionError
from bstar_trl.testbed import policy_path
from bstar_trl.training.weights import keep_4_bit_layout, refuse_8_bit, unmerged_copy

SYNCS = 200
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
NO_BITSANDBYTES = "quantised weights need bitsandbytes (the extra `quantization`)"


def with_lora(model, **changes):
    """A model under an adapter that is far from zero, as after some training."""
    settings = {"target_modules": "all-linear", "init_lora_weights": False, **changes}
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, **settings))


def make_4_bit(folder, *, hidden_size: int = 64, **changes):
    pytest.importorskip("bitsandbytes", reason=NO_BITSANDBYTES)
    make_model(hidden_size=hidden_size, intermediate_size=128).save_pretrained(folder)
    config = BitsAndBytesConfig(**{**NF4, **changes})
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    keep_4_bit_layout(model)  # as the trainer does
    return model


def numbers_of(name: str, item) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor's raw values, and those of every tensor that its attributes hold, however deep."""
    if isinstance(item, torch.Tensor):
        yield name, item.detach().view(torch.uint8) if item.dim() else item.detach()
    if isinstance(item, nn.Parameter) or type(item).__name__ == "QuantState":
        for key, value in vars(item).items():
            if isinstance(value, torch.Tensor) or type(value).__name__ == "QuantState":
                yield from numbers_of(f"{name}.{key}", value)
            elif isinstance(value, bool | int):
                yield f"{name}.{key}", torch.tensor(value)


def everything(model) -> dict[str, torch.Tensor]:
    """All that a model's parameters, buffers and quantised layers hold, as a copy."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found |= {key: value.clone() for key, value in numbers_of(name, tensor)}
    for name, module in model.named_modules():
        found |= {key: value.clone() for key, value in numbers_of(name, vars(module).get("quant_state"))}
    return found


def differences(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    missing = torch.tensor(torch.nan)
    return [
        name
        for name in before.keys() | after.keys()
        if not torch.equal(before.get(name, missing), after.get(name, missing))
    ]


def sync(model) -> None:
    """What TRL's sync does to a model with an adapter."""
    model.merge_adapter()
    model.unmerge_adapter()


def drift(model) -> list[str]:
    """What one sync without a copy moves."""
    before = everything(model)
    sync(model)
    return differences(before, everything(model))


def assert_never_drifts(model, syncs: int = SYNCS) -> None:
    batch = {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    expected = model.eval()(**batch).logits
    objects = {name: id(item) for name, item in [*model.named_parameters(), *model.named_buffers()]}
    before = everything(model)
    for _ in range(syncs):
        with unmerged_copy(model):
            sync(model)
    assert differences(before, everything(model)) == []
    assert {name: id(item) for name, item in [*model.named_parameters(), *model.named_buffers()]} == objects
    assert torch.equal(model(**batch).logits, expected)
    assert drift(model), "nothing drifts here even without a copy: this test shows nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_lora(dtype):
    assert_never_drifts(with_lora(make_model().to(dtype)))


@pytest.mark.parametrize("double", [False, True], ids=["nf4", "nf4-double"])
def test_a_lora_on_4_bits(tmp_path, double):
    model = with_lora(make_4_bit(tmp_path, bnb_4bit_use_double_quant=double))
    names = [name for name in everything(model) if "up_proj.base_layer" in name]
    for part in ("weight.quant_state.absmax", "weight.quant_state.code", "base_layer.absmax"):
        assert any(name.endswith(part) for name in names)
    assert any(name.endswith("weight.quant_state.state2.absmax") for name in names) == double
    assert any(name.endswith("weight.quant_state.offset") for name in names) == double
    assert_never_drifts(model)


@pytest.mark.parametrize(
    "changes",
    [{"bnb_4bit_quant_type": "fp4"}, {"bnb_4bit_quant_storage": torch.bfloat16}, {"hidden_size": 96}],
    ids=["fp4", "stored-as-bf16", "odd-sizes"],
)
def test_other_4_bit_formats(tmp_path, changes):
    assert_never_drifts(with_lora(make_4_bit(tmp_path, **changes)), syncs=5)


def test_dora_on_4_bits(tmp_path):
    assert_never_drifts(with_lora(make_4_bit(tmp_path), use_dora=True), syncs=5)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"lora_bias": True},
        {"bias": "lora_only"},
        {"trainable_token_indices": [3, 7]},
    ],
    ids=["dora", "modules-to-save", "embeddings", "lora-bias", "trainable-bias", "trainable-tokens"],
)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_other_adapters(changes, tied):
    model = make_model(attention_bias=True, mlp_bias=True, tie_word_embeddings=tied)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    assert_never_drifts(with_lora(model.to(torch.bfloat16), **changes), syncs=20)


def test_experts_whose_weights_are_no_layers():
    shape = {"num_local_experts": 2, "num_experts_per_tok": 2}
    model = MixtralForCausalLM(MixtralConfig(**{**make_config().to_dict(), **shape})).to(torch.bfloat16)
    experts = [
        name.split("layers.0.")[1] for name, item in model.named_parameters() if item.dim() == 3 and ".0." in name
    ]
    assert experts
    assert_never_drifts(with_lora(model, target_parameters=experts, target_modules=["q_proj"]), syncs=20)


def test_an_adapter_of_another_kind():
    torch.manual_seed(3)
    config = LoHaConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"], init_weights=False)
    assert_never_drifts(get_peft_model(make_model().to(torch.bfloat16), config), syncs=20)


def test_two_adapters():
    model = with_lora(make_model().to(torch.bfloat16))
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    assert_never_drifts(model, syncs=20)


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("layers_merged", [0, 1, 3, 100])
def test_an_error_in_the_middle(tmp_path, bits, layers_merged):
    model = with_lora(make_4_bit(tmp_path) if bits == 4 else make_model().to(torch.bfloat16)).eval()
    before, batch = everything(model), {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    expected = model(**batch).logits
    layers = [module for module in model.modules() if hasattr(module, "merged_adapters")]

    def fail_after_merging():
        with unmerged_copy(model):
            for layer in layers[:layers_merged]:
                layer.merge()
            raise ConnectionError("the server went away")

    with pytest.raises(ConnectionError):
        fail_after_merging()
    assert differences(before, everything(model)) == []
    assert not any(layer.merged for layer in layers)
    assert torch.equal(model(**batch).logits, expected)  # the adapter counts, once
    assert_never_drifts(model, syncs=2)


def test_a_model_without_an_adapter_is_left_alone():
    model = make_model()
    with unmerged_copy(model):
        model.lm_head.weight.data.zero_()
    assert not model.lm_head.weight.any()


# ---------------------------------------------------------------------- through the trainer


class RecordingEngine:
    """In place of TRL's `VLLMGeneration`: merges as it does, and keeps what it would push."""

    mode, enable_sleep_mode = "colocate", False

    def __init__(self, model):
        self.model, self.pushed = model, []

    def sync_weights(self):
        self.model.merge_adapter()
        self.pushed.append({name: item.detach().clone() for name, item in self.model.named_parameters()})
        self.model.unmerge_adapter()


def train_with_syncs(tmp_path, path, **changes):
    """A short real training that samples with `generate` and syncs an engine before each iteration."""
    trainer = make_trainer(
        tmp_path / "out",
        path,
        train_dataset=make_dataset(8),
        queries_per_iteration=4,
        iteration_steps=2,
        max_steps=6,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
        logging_steps=1,
        **changes,
    )
    engine = RecordingEngine(trainer.policy.model)
    trainer.vllm_generation, trainer._last_loaded_step = engine, -1
    trainer.policy._args = SimpleNamespace(**{**vars(trainer.args), "use_vllm": True})
    return trainer, engine


@pytest.mark.parametrize("bits", [16, 4])
def test_a_training_moves_the_adapter_alone(tmp_path, bits):
    path, changes = str(tmp_path / "policy"), {}
    make_model(hidden_size=64, intermediate_size=128).to(torch.bfloat16).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    if bits == 4:
        pytest.importorskip("bitsandbytes", reason=NO_BITSANDBYTES)
        changes["quantization_config"] = BitsAndBytesConfig(**NF4, bnb_4bit_use_double_quant=True)
    trainer, engine = train_with_syncs(tmp_path, path, **changes)
    before = everything(trainer.model)
    trainer.train()
    moved = differences(before, everything(trainer.model))
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name for name in moved)
    assert len(engine.pushed) == 3
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry)


def test_the_loss_on_a_4_bit_base_is_the_models_own(tmp_path):
    """The fused head's log-probabilities equal those of the model's logits."""
    pytest.importorskip("bitsandbytes", reason=NO_BITSANDBYTES)
    trainer = make_trainer(
        tmp_path,
        policy_path(),
        quantization_config=BitsAndBytesConfig(**{**NF4, "bnb_4bit_compute_dtype": torch.float32}),
        peft_config=LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
    )
    model = trainer.policy.model.eval()
    ids = torch.tensor([trainer.processing_class("1+2+3=3+3=6")["input_ids"]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": torch.ones(1, 5)}
    with torch.no_grad():
        found, _ = trainer.policy.log_probs(model, batch)
        logits = model(input_ids=ids).logits[0, -6:-1].float()
    expected = torch.log_softmax(logits, -1).gather(1, ids[0, -5:, None])[:, 0]
    torch.testing.assert_close(found[0].float(), expected, atol=2e-2, rtol=0)
    rows = {0: {"prompt": "1+2="}}
    assert list(trainer.policy.generate([Request((0,), 1.0, 2, 0, rows)]))


# ---------------------------------------------------------------------- 8 bits


def make_8_bit_layer(model):
    """Stand in for bitsandbytes, which replaces linear layers by a class of this name."""
    model.model.layers[1].mlp.up_proj = type("Linear8bitLt", (nn.Linear,), {})(4, 4)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
        {"quantization_config": {"load_in_8bit": True}},
        {"model_init_kwargs": {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}},
        {"model_init_kwargs": {"quantization_config": {"load_in_8bit": True}}},
        {"model_init_kwargs": {"load_in_8bit": True}},
        {"saved": {"load_in_8bit": True, "quant_method": "bitsandbytes"}},
        {"loaded": True},
    ],
    ids=["object", "dict", "kwargs-object", "kwargs-dict", "kwargs-option", "saved", "loaded"],
)
@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_8_bits_under_vllm_are_refused(tmp_path, model_path, monkeypatch, changes, mode):
    loads, changes = [], dict(changes)
    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", lambda *args, **kwargs: loads.append(args))
    model = model_path
    if changes.pop("loaded", False):
        model = make_8_bit_layer(make_model())
    elif "saved" in changes:
        model = str(tmp_path / "saved")
        make_config(quantization_config=changes.pop("saved")).save_pretrained(model)
    with pytest.raises(UnsupportedOptionError, match=r"8 bits \(load_in_8bit=True\) is not supported with use_vllm"):
        make_trainer(tmp_path, model, use_vllm=True, vllm_mode=mode, peft_config=LoraConfig(), **changes)
    assert not loads  # before any weight is loaded


@pytest.mark.parametrize(
    "changes",
    [{}, {"quantization_config": {"load_in_4bit": True}}, {"quantization_config": BitsAndBytesConfig(**NF4)}],
    ids=["plain", "4-bit-dict", "4-bit"],
)
def test_other_models_under_vllm_are_not_refused(tmp_path, model_path, changes):
    refuse_8_bit(model_path, changes.get("quantization_config"), None)
    refuse_8_bit(make_model(), None, {"dtype": "bfloat16"})
    refuse_8_bit(str(tmp_path / "no-such-model"), None, {})  # loading it says what is wrong
