"""How responses are sampled and cut: EOS, stop strings, the length limit, chat templates."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import make_chat_dataset, make_dataset, make_model, make_tokenizer, make_trainer
from peft import LoraConfig

from bstar_trl import Request
from bstar_trl.engines import decoding
from bstar_trl.errors import OutOfMemoryError


def sample(trainer, prompts, n=40, temperature=1.0, seed=1):
    rows = {index: {"prompt": prompt} for index, prompt in enumerate(prompts)}
    return list(trainer.policy.generate([Request(tuple(rows), temperature, n, seed, rows)]))


def test_ended_responses_carry_eos_and_cut_ones_do_not(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, max_completion_length=4)
    completions = sample(trainer, ["1+2=", "77+8="])
    assert {item.finish_reason for item in completions} == {"stop", "length"}
    for item in completions:
        assert (item.token_ids[-1] == 1) == (item.finish_reason == "stop")
        assert 1 not in item.token_ids[:-1]
        assert len(item.token_ids) <= 4
        if item.finish_reason == "length":
            assert len(item.token_ids) == 4
        assert item.text == trainer.processing_class.decode(item.token_ids, skip_special_tokens=True)


def test_a_stop_string_ends_a_response_and_eos_is_appended(tmp_path, model_path):
    trainer = make_trainer(
        tmp_path, model_path, max_completion_length=12, generation_kwargs={"stop_strings": ["3", "ab"]}
    )
    completions = sample(trainer, ["1+2="], n=300)
    stopped = [item for item in completions if "3" in item.text or "ab" in item.text]
    assert len(stopped) > 20
    for item in stopped:
        assert item.finish_reason == "stop"
        assert item.token_ids[-1] == 1
        assert item.text.endswith(("3", "ab"))
    assert all(item.finish_reason == "length" for item in completions if item.token_ids[-1] != 1)


def test_prompts_in_a_chunk_do_not_touch_each_other(tmp_path, model_path):
    """Padding must not change what is likely: greedy responses are those of each prompt alone."""
    trainer = make_trainer(tmp_path, model_path)
    prompts = ["1=", "12+34+5=", "0000000000000="]
    together = sample(trainer, prompts, n=1, temperature=0.0)
    for item in together:
        alone = sample(trainer, [prompts[item.query_id]], n=1, temperature=0.0)[0]
        assert alone.token_ids == item.token_ids


def test_equal_requests_give_equal_responses_and_seeds_differ(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path)
    first, second = sample(trainer, ["1+2="]), sample(trainer, ["1+2="])
    assert first == second
    assert [item.text for item in sample(trainer, ["1+2="], seed=2)] != [item.text for item in first]
    assert len({item.text for item in first}) > 20  # copies of a query have seeds of their own


def test_dropout_is_off_while_sampling(tmp_path):
    path = str(tmp_path / "policy")
    make_model(attention_dropout=0.5).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    trainer = make_trainer(tmp_path, path)
    trainer.model.train()
    greedy = [sample(trainer, ["1+2=", "12+3="], n=1, temperature=0.0, seed=seed) for seed in range(4)]
    assert greedy[0] == greedy[1] == greedy[2] == greedy[3]
    assert trainer.model.training


def test_sampling_leaves_the_random_state_and_the_mode_alone(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path)
    trainer.model.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sample(trainer, ["1+2="])
    assert torch.equal(torch.rand(3), expected)
    assert trainer.model.training


def test_chat_template_and_its_arguments_make_the_prompt(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, train_dataset=make_chat_dataset())
    trainer.processing_class.chat_template = (
        "{{ mood }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}a={% endif %}"
    )
    trainer.args.chat_template_kwargs = {"mood": "g"}
    (item,) = sample(trainer, [[{"role": "user", "content": "1+2"}]], n=1)
    assert trainer.processing_class.decode(item.prompt_ids) == "g1+2a="


@pytest.mark.parametrize("declared", [[5, 6], 5])
def test_any_eos_that_the_model_declares_ends_a_response(tmp_path, declared):
    path = str(tmp_path / "policy")
    model = make_model()
    model.generation_config.eos_token_id = declared
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    completions = sample(make_trainer(tmp_path, path, max_completion_length=12), ["1+2="], n=100)
    ends = {1, *([declared] if isinstance(declared, int) else declared)}
    assert {item.token_ids[-1] for item in completions} & ends == ends
    for item in completions:
        assert (item.token_ids[-1] in ends) == (item.finish_reason == "stop")
        assert not ends & set(item.token_ids[:-1])


def test_nothing_requested_nothing_sampled(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path)
    assert list(trainer.policy.generate([])) == []


# ---------------------------------------------------------------------- without vLLM


def by_query(completions):
    """What was sampled, in an order that does not depend on chunks."""
    return sorted((item.query_id, item.temperature, tuple(item.token_ids), item.finish_reason) for item in completions)


def test_samples_do_not_depend_on_the_chunk_size(tmp_path, model_path):
    requests = [Request((0, 1, 2, 5), 0.7, 5, seed=1), Request((1, 3), 0.0, 1, seed=1)]
    found = []
    for size in (4, 7, 128):
        trainer = make_trainer(tmp_path, model_path, generation_chunk_size=size)
        found.append(by_query(trainer.generate_responses(requests)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 22


def make_lora_trainer(folder, model_path, **changes):
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    settings = {"train_dataset": make_dataset(8), "eval_dataset": make_dataset(8), "queries_per_iteration": 4}
    return make_trainer(folder, model_path, peft_config=adapter, **settings | {"iteration_steps": 2} | changes)


def test_a_merged_copy_samples_what_the_model_samples(tmp_path, model_path):
    figures = {}
    for merge in ("always", "never", "auto"):
        torch.manual_seed(0)  # of the adapter
        trainer = make_lora_trainer(tmp_path / merge, model_path, merge_for_sampling=merge)
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        clocks = re.compile("runtime|per_second")
        figures[merge] = {name: value for name, value in trainer.evaluate().items() if not clocks.search(name)}
        assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert figures["always"] == figures["never"] == figures["auto"]
    assert figures["auto"]["eval_completions/mean_length"] > 0


def test_adapters_are_merged_once_per_iteration_and_trained_unmerged(tmp_path, model_path, monkeypatch):
    merged_layers = []
    layer = type(make_lora_trainer(tmp_path / "first", model_path).model.base_model.model.model.layers[0].mlp.up_proj)
    merge = layer.merge
    monkeypatch.setattr(layer, "merge", lambda self, *args: (merged_layers.append(self), merge(self, *args)))
    trainer = make_lora_trainer(tmp_path, model_path, max_steps=6)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    moved = [name for name, tensor in trainer.model.state_dict().items() if not torch.equal(before[name], tensor)]
    assert moved
    assert all("lora_" in name for name in moved)
    assert len(merged_layers) == 3 * 14  # 3 iterations, 2 layers of 7 matrices
    assert not set(map(id, merged_layers)) & set(map(id, trainer.model.modules()))


def test_mixed_precision_samples_with_weights_that_are_cast_once(tmp_path, model_path):
    trainer = make_lora_trainer(tmp_path, model_path, bf16=True, use_cpu=True, max_steps=2)
    dtypes = set()
    with trainer.policy.session():
        layer = trainer.policy._engine._merged.base_model.model.model.layers[0].mlp.up_proj
        layer.register_forward_pre_hook(lambda *_: dtypes.add(layer.get_base_layer().weight.dtype))
        adapted = trainer.model.base_model.model.model.layers[0].mlp.up_proj
        handle = adapted.register_forward_pre_hook(lambda *_: dtypes.add("of the model itself"))
        assert len(list(trainer.generate_responses([Request((0, 1), 1.0, 3, seed=0)]))) == 6
        handle.remove()
    assert dtypes == {torch.bfloat16}
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_a_head_in_fp32_is_one_in_the_merged_copy_too(tmp_path, model_path):
    """TRL replaces the head's `forward` for it, and that is part of the model."""
    options = {"model_init_kwargs": {"dtype": "bfloat16"}, "cast_lm_head_to_fp32": True}
    figures = {}
    for merge in ("always", "never"):
        torch.manual_seed(0)
        trainer = make_lora_trainer(tmp_path / merge, model_path, merge_for_sampling=merge, max_steps=2, **options)
        figures[merge] = trainer.evaluate()["eval_completions/mean_length"]
        trainer.train()
    assert figures["always"] == pytest.approx(figures["never"], rel=0.2)


def test_the_bar_tells_responses_and_tokens_a_second(tmp_path, model_path, capsys):
    trainer = make_trainer(tmp_path, model_path, disable_tqdm=False, generation_chunk_size=4)
    list(trainer.generate_responses([Request((0, 1, 2), 1.0, 100, seed=0), Request((0,), 0.5, 2, seed=0)]))
    shown = capsys.readouterr().err
    assert "Sampling at T = 1, 0.5" in shown
    assert re.search(r"[0-9.]+ responses/s, [0-9,]+ tokens/s", shown)


def test_too_little_memory_names_the_option_to_lower(tmp_path, model_path, monkeypatch):
    """As on a GPU; tests/engines/test_memory.py runs out of real memory."""

    def out_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    trainer = make_trainer(tmp_path, model_path, generation_chunk_size=8)
    monkeypatch.setattr(decoding, "draw", out_of_memory)
    with pytest.raises(
        OutOfMemoryError, match=r"4 responses of .* do not fit into memory together: lower generation_c"
    ):
        list(trainer.generate_responses([Request((0,), 1.0, 8, seed=0)]))
