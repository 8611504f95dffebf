"""Merged copies: what they compute, what they leave untouched, and when none is made."""

from __future__ import annotations

import copy
import gc
import logging
import weakref

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    get_peft_model,
)

from bstar_trl.engines import Job, TransformersEngine, as_merge, merged, merging
from bstar_trl.errors import ConfigurationError, UnsupportedOptionError


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """What is said once is said in every test."""
    merging._say_once.cache_clear()


TOKENS = torch.tensor([[5, 9, 13, 7, 20], [11, 3, 4, 8, 16]])


def make_lora(model=None, seed=1, **options):
    """A model with a LoRA whose change is not zero."""
    options = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", **options}
    model = get_peft_model(model or make_model(), LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter.data, std=0.2)
    return model


def make_ia3():
    config = IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    model = get_peft_model(make_model(), config).eval()
    for name, parameter in model.named_parameters():
        if "ia3_" in name:
            torch.nn.init.uniform_(parameter.data, 0.5, 2.0)
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def contents(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "make",
    [
        make_lora,
        lambda: make_lora(use_dora=True),
        lambda: make_lora(use_rslora=True, target_modules=["q_proj", "embed_tokens"]),
        lambda: make_lora(make_model(tie_word_embeddings=True), target_modules=["q_proj", "lm_head"]),
        lambda: make_lora(target_modules=["v_proj"], modules_to_save=["lm_head"]),
        lambda: make_lora(target_modules=["q_proj"], target_parameters=["layers.0.mlp.up_proj.weight"]),
        make_ia3,
    ],
    ids=["lora", "dora", "embedding", "tied head", "modules_to_save", "parameters", "ia3"],
)
def test_a_copy_computes_what_the_model_computes_and_the_model_stays(make):
    model = make()
    expected, before = logits(model), contents(model)
    with merged(model, "always") as twin:
        assert twin is not model
        assert torch.allclose(logits(twin), expected, atol=1e-4)
        shared = {tensor.data_ptr() for tensor in model.state_dict().values()}
        own = [name for name, tensor in twin.state_dict().items() if tensor.data_ptr() not in shared]
        assert own
        assert all("norm" not in name and "lora_" not in name for name in own)
        assert torch.equal(logits(model), expected)
    after = contents(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(model), expected)


def test_a_copy_differs_from_the_model_without_its_adapter():
    """So that the comparison above is one."""
    model = make_lora()
    with merged(model, "always") as twin, model.disable_adapter():
        assert not torch.allclose(logits(twin), logits(model), atol=0.1)


def test_several_active_adapters_are_merged_together():
    model = make_lora()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["o_proj"]))
    for name, parameter in model.named_parameters():
        if ".other." in name:
            torch.nn.init.normal_(parameter.data, std=0.3)
    model.base_model.set_adapter(["default", "other"])
    expected = logits(model)
    with merged(model, "always") as twin:
        assert torch.allclose(logits(twin), expected, atol=1e-4)


def make_4_bit(*, keep_layout: bool):
    bnb = pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    model = make_model(hidden_size=64)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                sizes = child.in_features, child.out_features
                layer = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=torch.float32, quant_type="nf4")
                layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
                layer.support_avx512bf16_for_cpu &= not keep_layout
                setattr(module, name, layer.to("cpu"))
    model.is_loaded_in_4bit = True
    return make_lora(model, target_modules=["q_proj", "v_proj", "down_proj"])


def test_4_bit_weights_are_dequantised_in_the_copy():
    model = make_4_bit(keep_layout=True)
    expected, before = logits(model), contents(model)
    with merged(model, "always") as twin:
        assert type(twin.base_model.model.model.layers[0].self_attn.q_proj.base_layer) is torch.nn.Linear
        assert torch.allclose(logits(twin), expected, atol=0.01)
    assert all(torch.equal(before[name], tensor) for name, tensor in contents(model).items())
    with model.disable_adapter():
        assert not torch.allclose(logits(model), expected, atol=0.1)


def test_4_bit_weights_in_the_layout_for_inference_are_not_misread():
    """Some processors' 4-bit weights are laid out anew with the first inference; others' are merged as above."""
    model = make_4_bit(keep_layout=False)
    expected = logits(model)
    with merged(model, "auto") as twin:
        assert torch.allclose(logits(twin), expected, atol=0.1)


def test_in_mixed_precision_the_copy_holds_what_autocast_would_cast():
    model = make_lora(target_modules=["q_proj", "v_proj"])
    with torch.autocast("cpu", torch.bfloat16):
        expected = logits(model)
        with merged(model, "always", torch.bfloat16) as twin:
            linear = [item for item in twin.modules() if isinstance(item, torch.nn.Linear)]
            frozen = [item.weight for item in linear if not item.weight.requires_grad]
            assert {weight.dtype for weight in frozen} == {torch.bfloat16}
            assert torch.allclose(logits(twin).float(), expected.float(), atol=0.1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("merge", ["auto", "always"])
def test_a_model_without_adapters_is_no_copy(merge):
    model = make_model()
    with merged(model, merge) as same:
        assert same is model


def test_merged_and_disabled_adapters_are_no_reason_for_a_copy():
    model = make_lora()
    with model.disable_adapter(), merged(model, "always") as same:
        assert same is model
    model.merge_adapter()
    with merged(model, "always") as same:
        assert same is model


def test_nothing_is_merged_where_that_is_asked_for():
    model = make_lora()
    with merged(model, "never") as same:
        assert same is model


def test_a_copy_that_would_fill_the_memory_is_not_made(monkeypatch, caplog):
    monkeypatch.setattr(merging, "SHARE_OF_FREE", 0.0)
    model = make_lora()
    with caplog.at_level(logging.INFO, logger="bstar_trl"), merged(model) as same:
        assert same is model
    assert "unmerged adapters, which is slower: a merged copy takes 0.0 GiB, more than 0% of the free" in caplog.text


def test_adapters_that_cannot_be_merged_are_said_to_be_so(caplog):
    model = make_lora(alora_invocation_tokens=[5])
    with caplog.at_level(logging.INFO, logger="bstar_trl"), merged(model) as same:
        assert same is model
    assert "peft cannot merge adapters of the kind ALora" in caplog.text
    with (
        pytest.raises(UnsupportedOptionError, match=r"merge_for_sampling='always' cannot be done: peft .* ALora"),
        merged(model, "always"),
    ):
        pass


def test_adapters_whose_merging_fails_are_sampled_unmerged(monkeypatch, caplog):
    """Some kinds of adapters find out only when they try."""
    model = make_lora()

    def merge(self, *args):
        raise NotImplementedError("this kind cannot be merged")

    monkeypatch.setattr(type(model.base_model.model.model.layers[0].mlp.up_proj), "merge", merge)
    expected = logits(model)
    with merged(model) as same:
        assert same is model
        assert torch.equal(logits(same), expected)
    assert "this kind cannot be merged" in caplog.text
    with pytest.raises(UnsupportedOptionError, match="this kind cannot be merged"), merged(model, "always"):
        pass


def test_memory_that_runs_out_is_a_reason_and_another_failure_is_an_error(monkeypatch, caplog):
    model = make_lora()

    def fail(error):
        monkeypatch.setattr(merging, "_merged_copy", lambda *args: (_ for _ in ()).throw(error))

    fail(torch.OutOfMemoryError("CUDA out of memory."))
    with merged(model) as same:
        assert same is model
    assert "memory ran out while the copy was made" in caplog.text
    fail(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"), merged(model):
        pass


def test_tied_adapters_are_sampled_unmerged():
    model = make_lora(
        make_model(tie_word_embeddings=True), target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True
    )
    with merged(model) as same:
        assert same is model


def test_weights_in_8_bits_of_any_kind_are_not_merged():
    model = make_lora(target_modules=["q_proj"])
    for layer in model.base_model.model.model.layers:
        base = layer.self_attn.q_proj.base_layer
        base.weight = torch.nn.Parameter(base.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    with merged(model) as same:
        assert same is model


def test_a_forward_that_was_replaced_within_the_model():
    """Without an adapter in it, it may go on calling the layer that it was made of: the copy shares its weights."""
    model = make_lora(target_modules=["q_proj"])
    head = model.base_model.model.lm_head
    head.forward = lambda hidden: 2 * torch.nn.functional.linear(hidden, head.weight)
    expected = logits(model)
    with merged(model, "always") as twin:
        assert torch.allclose(logits(twin), expected, atol=1e-4)
    layer = model.base_model.model.model.layers[0]
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    with (
        pytest.raises(UnsupportedOptionError, match=r"the forward of .*layers\.0 was replaced"),
        merged(model, "always"),
    ):
        pass


def test_making_a_copy_draws_no_random_numbers():
    model = make_4_bit(keep_layout=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with merged(model, "always"):
        assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_is_gone_once_all_is_sampled(monkeypatch):
    model, copies = make_lora(), []
    make_copy = merging._merged_copy
    monkeypatch.setattr(
        merging, "_merged_copy", lambda *args: copies.append(weakref.ref(twin := make_copy(*args))) or twin
    )
    alive_when_freed = []
    monkeypatch.setattr(
        merging,
        "free_cached_memory",
        lambda device: alive_when_freed.append(gc.collect() and copies[-1]() is not None),
    )
    engine = TransformersEngine(model, make_tokenizer(), batch_size=4, max_new_tokens=4)
    list(engine.run([Job([5, 9], 1.0, seed) for seed in range(9)]))
    assert alive_when_freed == [False]


def test_dropout_of_an_adapter_is_off_in_the_copy():
    model = make_lora(lora_dropout=0.5)
    model.train()
    engine = TransformersEngine(model, make_tokenizer(), batch_size=4, max_new_tokens=8)
    jobs = [Job([5, 9, 13], 0.0, seed) for seed in range(4)]
    assert list(engine.run(jobs)) == list(engine.run(jobs))
    assert model.training


def test_prefixes_are_no_weights_to_merge():
    model = get_peft_model(make_model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).eval()
    with merged(model, "always") as same:
        assert same is model


@pytest.mark.parametrize("merge", ["auto", "always", "never"])
def test_an_engine_samples_the_adapted_model(merge):
    model = make_lora(make_model(initializer_range=0.1))
    jobs = [Job([5, 9, 13], 1.0, seed) for seed in range(50)]
    engine = TransformersEngine(model, make_tokenizer(), batch_size=50, max_new_tokens=6, merge_for_sampling=merge)
    folded = copy.deepcopy(model).merge_and_unload()
    expected = list(TransformersEngine(folded, make_tokenizer(), batch_size=50, max_new_tokens=6).run(jobs))
    assert list(engine.run(jobs)) == expected


def test_other_words_for_merging_are_refused():
    assert [as_merge(value) for value in ("auto", True, "ALWAYS", False, "false")] == [
        "auto",
        "always",
        "always",
        "never",
        "never",
    ]
    for value in ("often", None, 2, [True]):
        with pytest.raises(ConfigurationError, match=r"merge_for_sampling must be 'auto', 'always' .* got"):
            as_merge(value)
