"""How responses are sampled and cut: EOS, stop strings, the length limit, chat templates."""

from __future__ import annotations

import pytest
import torch
from conftest import make_chat_dataset, make_model, make_tokenizer, make_trainer

from bstar_trl import Request


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
