"""Sampling without a trainer: distribution, temperatures, lengths, ends, seeds."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from prms import make_token_classifier
from scipy.stats import chisquare

from bstar_trl.engines import Job, TransformersEngine, VLLMEngine, prompt_ids
from bstar_trl.errors import ConfigurationError, MissingDependencyError

EOS = 1


def make_engine(model=None, **options):
    return TransformersEngine(model or make_model(), make_tokenizer(), **{"batch_size": 500, **options})


def sample(engine, jobs):
    found = {}
    for positions, sampled in engine.run(jobs):
        assert len(positions) == len(sampled) <= engine.batch_size
        found |= dict(zip(positions, sampled, strict=True))
    assert sorted(found) == list(range(len(jobs)))
    return [found[place] for place in range(len(jobs))]


def make_jobs(text="1+2=", n=200, temperature=1.0, seed=0, max_new_tokens=12):
    tokens = make_tokenizer()(text)["input_ids"]
    return [Job(tokens, temperature, seed * 100_000 + copy, max_new_tokens) for copy in range(n)]


def test_first_tokens_follow_the_models_distribution_at_each_temperature():
    model = make_model(initializer_range=0.1)
    # What a model's own config asks for beside a temperature is not the policy's distribution.
    model.generation_config.update(top_k=2, top_p=0.3, min_p=0.4, repetition_penalty=3.0, temperature=0.1)
    engine = make_engine(model)
    temperatures = (0.5, 1.0, 1.7)
    jobs = [
        job for temperature in temperatures for job in make_jobs(n=3000, temperature=temperature, max_new_tokens=1)
    ]
    sampled = sample(engine, jobs)
    with torch.no_grad():
        logits = model(torch.tensor([jobs[0].prompt_ids])).logits[0, -1].double()
    for place, temperature in enumerate(temperatures):
        first = [item.token_ids[0] for item in sampled[3000 * place : 3000 * (place + 1)]]
        expected = torch.softmax(logits / temperature, 0).numpy() * 3000
        often = expected >= 5
        counts = np.bincount(first, minlength=len(expected))
        observed = [*counts[often], counts[~often].sum() + 1e-9]
        assert chisquare(observed, [*expected[often], expected[~often].sum() + 1e-9]).pvalue > 1e-3


def test_every_job_has_its_own_length():
    jobs = [job for length in (1, 3, 9) for job in make_jobs(n=100, max_new_tokens=length)]
    sampled = sample(make_engine(), jobs)
    for job, item in zip(jobs, sampled, strict=True):
        assert (item.token_ids[-1] == EOS) == item.ended
        assert EOS not in item.token_ids[:-1]
        assert len(item.token_ids) == job.max_new_tokens or (item.ended and len(item.token_ids) < job.max_new_tokens)
    assert {item.ended for item in sampled} == {True, False}


@pytest.mark.parametrize("pad", ["<eos>", None])
def test_padding_with_eos_is_not_taken_for_an_end(pad):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = pad
    engine = TransformersEngine(make_model(), tokenizer, batch_size=300)
    sampled = sample(engine, [job for length in (2, 12) for job in make_jobs(n=150, max_new_tokens=length)])
    usual = sample(
        make_engine(batch_size=300), [job for length in (2, 12) for job in make_jobs(n=150, max_new_tokens=length)]
    )
    assert sampled == usual


def test_prompts_of_unlike_length_do_not_touch_each_other():
    engine = make_engine()
    jobs = [job for text in ("1=", "12+34+5=", "0000000000000=") for job in make_jobs(text, n=1, temperature=0.0)]
    assert sample(engine, jobs) == [sample(engine, [job])[0] for job in jobs]


def test_a_stop_string_ends_a_response():
    sampled = sample(make_engine(stop=("3", "ab")), make_jobs(n=300))
    texts = [make_tokenizer().decode(item.token_ids, skip_special_tokens=True) for item in sampled]
    stopped = [item for item, text in zip(sampled, texts, strict=True) if "3" in text or "ab" in text]
    assert len(stopped) > 20
    assert all(item.ended and item.token_ids[-1] == EOS for item in stopped)
    assert all(text.endswith(("3", "ab")) for text in texts if "3" in text or "ab" in text)


def test_a_stop_string_may_begin_in_the_prompt():
    """Transformers stops there, so it is an end, not a cut; one that lies in the prompt alone is none."""
    engine = make_engine(make_model(initializer_range=0.1), stop=("=1", "3="))
    jobs = make_jobs("1+23=", n=400, max_new_tokens=4)
    sampled = sample(engine, jobs)
    texts = [make_tokenizer().decode(item.token_ids, skip_special_tokens=True) for item in sampled]
    one = make_tokenizer().convert_tokens_to_ids("1")  # not behind a special token, which decoding leaves out
    border = [(text, item) for text, item in zip(texts, sampled, strict=True) if item.token_ids[0] == one]
    assert len(border) > 5
    assert all(text == "1" and item.ended and item.token_ids[-1] == EOS for text, item in border)
    cut = [item for text, item in zip(texts, sampled, strict=True) if len(text) == 4 and "3=" not in text]
    assert len([item for item in cut if not item.ended]) > 100


def test_every_end_that_the_model_declares_ends_a_response():
    model = make_model(initializer_range=0.1)
    other = make_tokenizer().convert_tokens_to_ids("7")
    model.generation_config.eos_token_id = [EOS, other]
    sampled = sample(make_engine(model), make_jobs(n=300))
    ended = [item for item in sampled if item.token_ids[-1] == other]
    assert len(ended) > 20
    assert all(item.ended for item in ended)
    assert not any(other in item.token_ids[:-1] for item in sampled)


def test_a_model_of_another_kind_is_refused(tmp_path):
    path = make_token_classifier(tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"is no causal language model: it has no weights for lm_head\.weight"
    ):
        TransformersEngine(path)


def test_tied_embeddings_lack_nothing(tmp_path):
    make_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert TransformersEngine(str(tmp_path)).model.config.tie_word_embeddings


def test_empty_stop_strings_are_refused(model_path):
    for engine in (TransformersEngine, VLLMEngine):
        with pytest.raises(ConfigurationError, match="stop must be texts of at least one character"):
            engine(model_path, stop=("a", ""))


def test_seeds_alone_decide_and_nothing_else_is_moved():
    engine = make_engine(batch_size=64)
    engine.model.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = sample(engine, make_jobs())
    assert torch.equal(torch.rand(3), expected)
    assert engine.model.training
    assert sample(engine, make_jobs()) == first
    assert sample(engine, make_jobs(seed=1)) != first
    assert len({tuple(item.token_ids) for item in first}) > 100


def test_dropout_is_off_while_sampling():
    engine = make_engine(make_model(attention_dropout=0.5))
    engine.model.train()
    greedy = [sample(engine, make_jobs(n=2, temperature=0.0, seed=seed)) for seed in range(4)]
    assert greedy[0] == greedy[1] == greedy[2] == greedy[3]


def test_a_model_is_loaded_by_name_with_its_tokenizer(model_path):
    engine = TransformersEngine(model_path, batch_size=500)
    assert sample(engine, make_jobs()) == sample(make_engine(), make_jobs())
    assert engine.max_length == 256


def test_prompts_are_text_or_messages():
    tokenizer = make_tokenizer()
    messages = [{"role": "user", "content": "1+2"}]
    assert [tokenizer.decode(ids) for ids in prompt_ids(tokenizer, [messages])] == ["<unk>=1+2\na="]
    assert prompt_ids(tokenizer, ["1+2="]) == [tokenizer("1+2=")["input_ids"]]
    assert prompt_ids(tokenizer, []) == []


def test_what_cannot_work_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match="EOS"):
        TransformersEngine(make_model(), tokenizer)
    with pytest.raises(ConfigurationError, match="cannot load the model 'no/such-model'"):
        TransformersEngine("no/such-model")
    with pytest.raises(ConfigurationError, match="batch_size must be at least 1, got 0"):
        make_engine(batch_size=0)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_missing_vllm_is_explained(model_path):
    with pytest.raises(MissingDependencyError, match=r"pip install 'bstar-trl\[vllm\]'"):
        VLLMEngine(model_path)
