"""The decoding loop: what a row draws depends on the row alone, follows the model, and costs what the rows need."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from conftest import LETTERS, make_gpt2, make_model, make_tokenizer
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from scipy.stats import chi2_contingency, chisquare
from transformers import GenerationConfig, LlamaForCausalLM

from bstar_trl.engines import ChunkedGenerate, Job, TransformersEngine
from bstar_trl.engines.decoding import draw
from bstar_trl.engines.stops import StopStrings
from bstar_trl.errors import SamplingError

EOS = 1
TEXTS = ("1+2=", "12+34+5=", "7=", "12+34+5=", "0000000000000=")
LARGEST = 1 - 2**-24  # of the numbers that a row draws


def tokens_of(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


def run(sampler, jobs, model=None, chunk_size=None):
    """The samples of jobs, in order, from an engine or from a `ChunkedGenerate`."""
    found = {}
    for positions, sampled in sampler.run(jobs) if model is None else sampler.run(model, jobs, chunk_size):
        found |= dict(zip(positions, sampled, strict=True))
    return [found[place] for place in range(len(jobs))]


def mixed_jobs(copies: int = 9) -> list[Job]:
    """Prompts of several lengths, some of them equal, several temperatures and lengths."""
    return [
        Job(tokens_of(text), temperature, 1000 * place + copy, (5, None, 40)[copy % 3])
        for place, (text, temperature) in enumerate(zip(TEXTS, (0.5, 1.0, 1.7, 1.0, 0.0), strict=True))
        for copy in range(copies)
    ]


# ---------------------------------------------------------------------- what a row draws


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"top_k": 5, "top_p": 0.9, "min_p": 0.02},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
        {"stop_strings": ["3", "b+"]},
    ],
    ids=lambda kwargs: " ".join(kwargs),
)
@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
def test_a_sample_does_not_depend_on_its_neighbours(kwargs, pad):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = pad
    unfiltered = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_new_tokens": 60}
    chunked = ChunkedGenerate(tokenizer, unfiltered | kwargs, [EOS])
    model, jobs = make_model(initializer_range=0.1).eval(), mixed_jobs()
    alone = run(chunked, jobs, model, 1)
    assert run(chunked, jobs, model, 7) == run(chunked, jobs, model, 128) == alone
    assert run(chunked, jobs[::-1], model, 7)[::-1] == alone
    assert len({tuple(item.token_ids) for item in alone}) > 25


def test_numbers_are_looked_up_in_the_cumulative_distribution():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (400, 50)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.3] = -np.inf
    logits[:, 7] = 0.0
    numbers = rng.random(400).astype(np.float32)
    numbers[:40], numbers[40:80] = 0.0, LARGEST
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    cumulative = probabilities.cumsum(axis=1)
    tokens = draw(torch.tensor(logits), torch.tensor(numbers)).numpy()
    rows = np.arange(400)
    assert (probabilities[rows, tokens] > 0).all()
    low = cumulative[rows, tokens] - probabilities[rows, tokens]
    assert (low - 1e-6 <= numbers).all()
    assert (numbers <= cumulative[rows, tokens] + 1e-6).all()


def test_the_largest_number_finds_a_token_that_is_not_excluded():
    """Whatever the sum of the probabilities is rounded to."""
    rng = np.random.default_rng(0)
    scores = torch.full((500, 3000), -torch.inf)
    scores[:, :1000] = torch.tensor(rng.normal(0, 3, (500, 1000)), dtype=torch.float32)
    scores[0, :1000] = -torch.inf
    scores[0, 7] = 1.0  # one token alone: the sum is 1
    scores[1, :1000] = torch.log(torch.tensor(2.0**-23))
    scores[1, 0] = 0.0
    assert (draw(scores, torch.full((500,), LARGEST)) < 1000).all()


def test_numbers_of_other_rows_are_other_numbers():
    jobs = [Job(tokens_of("1+2="), 1.0, seed, 1) for seed in range(3000)]
    engine = TransformersEngine(make_model(initializer_range=0.05), make_tokenizer(), batch_size=1000)
    first = np.array([item.token_ids[0] for item in run(engine, jobs)])
    pairs = np.histogram2d(first[:-1] % 3, first[1:] % 3, bins=3)[0]
    assert chi2_contingency(pairs).pvalue > 1e-3  # neighbouring seeds give independent tokens


# ---------------------------------------------------------------------- the distribution


def frequencies(tokens, size):
    return np.bincount(tokens, minlength=size).astype(float)


def fits(observed, expected) -> bool:
    """Whether counts follow an expected distribution; rare tokens count together, excluded ones must not occur."""
    assert observed[expected == 0].sum() == 0
    often = expected >= 5
    pairs = zip(observed[often], expected[often], strict=True)
    seen, wanted = map(list, zip(*pairs, strict=True))
    if (expected[~often] > 0).any():
        seen, wanted = [*seen, observed[~often].sum()], [*wanted, expected[~often].sum()]
    return len(seen) == 1 or chisquare(seen, wanted).pvalue > 1e-3


def top_k(p):
    return np.where(p >= np.sort(p)[-5], p, 0)


def top_p(p):
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(p[order].cumsum(), 0.7)) + 1]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0)


def min_p(p):
    return np.where(p >= 0.3 * p.max(), p, 0)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@pytest.mark.parametrize(
    ("kwargs", "filtered"),
    [({"top_k": 5}, top_k), ({"top_p": 0.7}, top_p), ({"min_p": 0.3}, min_p), ({}, lambda p: p)],
    ids=["top_k", "top_p", "min_p", "none"],
)
def test_first_tokens_follow_the_filtered_softmax(temperature, kwargs, filtered):
    model, prompt, count = make_model(initializer_range=0.1).eval(), tokens_of("1+2="), 4000
    unfiltered = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_new_tokens": 1}
    chunked = ChunkedGenerate(make_tokenizer(), unfiltered | kwargs, [EOS])
    sampled = run(chunked, [Job(prompt, temperature, seed) for seed in range(count)], model, count)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double().numpy() / temperature
    probabilities = np.exp(logits - logits.max())
    probabilities = filtered(probabilities / probabilities.sum())
    expected = count * probabilities / probabilities.sum()
    assert fits(frequencies([item.token_ids[0] for item in sampled], len(expected)), expected)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 3},
        {"bad_words_ids": [[4], [12, 5]]},
        {"sequence_bias": {(13,): 2.0, (12, 14): -3.0}},
        {"suppress_tokens": [5, 6]},
        {"typical_p": 0.6},
        {"epsilon_cutoff": 0.03},
        {"eta_cutoff": 0.05},
        {"exponential_decay_length_penalty": (1, 1.6)},
        {"forced_eos_token_id": EOS},
        {"top_k": 6, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.3, "renormalize_logits": True},
    ],
    ids=lambda kwargs: " ".join(kwargs) or "none",
)
def test_whole_samples_are_distributed_as_those_of_plain_generate(kwargs):
    """Two samples of 3,000: the first tokens, pairs of tokens and lengths come from one distribution."""
    model, prompt, count = make_model(initializer_range=0.1).eval(), tokens_of("1+12="), 3000
    fixed = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_new_tokens": 4, "eos_token_id": EOS, "pad_token_id": 0}
    chunked = ChunkedGenerate(make_tokenizer(), fixed | kwargs, [EOS])
    ours = [item.token_ids for item in run(chunked, [Job(prompt, 0.9, seed) for seed in range(count)], model, count)]
    torch.manual_seed(0)
    config = GenerationConfig(**(fixed | {"do_sample": True, "temperature": 0.9} | kwargs))
    plain = model.generate(torch.tensor([prompt] * count), generation_config=config)[:, len(prompt) :].tolist()
    theirs = [row[: row.index(EOS) + 1] if EOS in row else row for row in plain]
    for figure in (lambda row: row[0], lambda row: (*row, 0)[:2], len, lambda row: row[-1]):
        assert_same_distribution([figure(row) for row in ours], [figure(row) for row in theirs])


def assert_same_distribution(one, other):
    kinds = sorted(set(one) | set(other))
    counts = np.array([[sample.count(kind) for kind in kinds] for sample in (one, other)])
    often = counts.sum(axis=0) >= 20
    table = np.column_stack([counts[:, often], counts[:, ~often].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    assert table.shape[1] == 1 or chi2_contingency(table).pvalue > 1e-3


# ---------------------------------------------------------------------- models and what they ask for


SMALL = {
    "vocab_size": len(LETTERS) + 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "bos_token_id": None,
    "initializer_range": 0.2,
}
MOE = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS = {
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 8},
    "Qwen3Moe": MOE,
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "Jamba": {"num_experts": 2, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "Mamba": {},
    "FalconH1": {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_ssm": 32, "mamba_d_head": 8},
    "Bloom": {"n_layer": 2, "n_head": 4},
}


def make_kind(name: str):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL | KINDS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    model.generation_config.eos_token_id = EOS
    return model


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_cache_gives_what_plain_generate_gives(name):
    """Caches that rows can leave, with and without a sliding window, and states of other kinds, which they cannot."""
    model, jobs = make_kind(name), mixed_jobs()
    engine = TransformersEngine(model, make_tokenizer(), batch_size=16, max_new_tokens=70)
    sampled = run(engine, jobs)
    for job, item in zip(jobs, sampled, strict=True):
        if job.temperature == 0:
            tokens = torch.tensor([job.prompt_ids])
            longest = job.max_new_tokens or 70
            plain = model.generate(tokens, do_sample=False, max_new_tokens=longest, eos_token_id=EOS, pad_token_id=0)
            assert item.token_ids == plain[0, len(job.prompt_ids) :].tolist()
    engine.batch_size = 1
    assert run(engine, jobs) == sampled


def test_positions_behind_the_context_are_never_asked_for():
    """Also where so few rows have ended that they stay in the batch."""
    engine = TransformersEngine(make_gpt2(24), make_tokenizer(), batch_size=64, max_new_tokens=60)
    jobs = [Job(tokens_of(text), 1.0, seed) for seed, text in enumerate(["1="] * 40 + ["0000000000000000="] * 2)]
    for job, item in zip(jobs, run(engine, jobs), strict=True):
        assert item.ended or len(job.prompt_ids) + len(item.token_ids) == 24
    # One that its own length cuts off stays in the batch, too, while the others go on behind its place.
    jobs = [Job(tokens_of("0" * 16), 1.0, 0, 5), *(Job(tokens_of("1="), 1.0, seed, 20) for seed in range(40))]
    assert len(run(engine, jobs)[0].token_ids) <= 5


def test_a_stop_string_at_the_end_of_the_context_is_a_cut():
    """There is no room for the EOS that would follow it."""
    engine = TransformersEngine(make_gpt2(8), make_tokenizer(), batch_size=64, stop=list(LETTERS))
    sampled = run(engine, [Job(tokens_of("1+2+3+4"), 1.0, seed) for seed in range(40)])
    assert {(item.ended, len(item.token_ids)) for item in sampled if item.token_ids[0] > 2} == {(False, 1)}
    sampled = run(engine, [Job(tokens_of("1+2+3+"), 1.0, seed) for seed in range(40)])
    assert (True, 2) in {(item.ended, len(item.token_ids)) for item in sampled}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
        {"use_cache": False},
        {"guidance_scale": 1.5},
        {"encoder_no_repeat_ngram_size": 2},
        {"encoder_repetition_penalty": 1.7},
        {"prefill_chunk_size": 2},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
@pytest.mark.parametrize("by_the_model", [False, True])
def test_what_the_loop_does_not_do_is_left_to_transformers(kwargs, by_the_model):
    model, prompt = make_model().eval(), tokens_of("1+2=")
    fixed = {"max_new_tokens": 12, "eos_token_id": EOS, "pad_token_id": 0}
    plain = model.generate(
        torch.tensor([prompt]), generation_config=GenerationConfig(**fixed, do_sample=False, **kwargs)
    )
    if by_the_model:
        model.generation_config.update(**kwargs)
    chunked = ChunkedGenerate(make_tokenizer(), fixed | ({} if by_the_model else kwargs), [EOS])
    (sampled,) = run(chunked, [Job(prompt, 0.0, 0)], model, 1)
    assert sampled.token_ids == plain[0, len(prompt) :].tolist()


class Bytes:
    """A tokenizer whose tokens are bytes, so that a character takes up to four of them."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, tokens):
        return bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("stop", "prompt", "response"),
    [
        ("\U0001f642\U0001f642", "ab\U0001f642", "\U0001f642"),
        ("\u7b54\u6848", "\u95ee\u9898\u7b54", "\u6848"),
        ("\u3002", "ab", "c\u3002"),
        ("stop" * 20, "a" + "stop" * 19, "stop"),
        ("end", "a" * 100, "b" * 100 + "end"),
    ],
)
def test_stop_strings_whose_characters_take_several_tokens(stop, prompt, response):
    encode = Bytes().encode
    ends = []
    for cut in range(len(prompt.encode()) - 4, len(prompt.encode()) + 1):  # the prompt may end within a character
        before, after = encode(prompt)[:cut], encode(prompt)[cut:] + encode(response)
        stops = StopStrings(Bytes(), [stop, "never"], [before])
        ends.append([count for count in range(1, len(after) + 1) if stops.end(0, after[:count])])
        assert ends[-1] == [len(after)]
    stops = StopStrings(Bytes(), [stop], [encode(stop)])
    assert not any(stops.end(0, encode("xyz")[:count]) for count in (1, 2, 3))  # it lies in the prompt alone


@pytest.mark.parametrize("stop", [["3", "b+"], "=1"])
def test_beams_end_at_stop_strings_too(stop):
    chunked = ChunkedGenerate(make_tokenizer(), {"max_new_tokens": 12, "num_beams": 2, "stop_strings": stop}, [EOS])
    jobs = [Job(tokens_of("1+2="), 1.0, seed) for seed in range(60)]
    sampled = run(chunked, jobs, make_model(initializer_range=0.1).eval(), 60)
    stops = [stop] if isinstance(stop, str) else stop
    for item in sampled:
        text = "=" + make_tokenizer().decode(item.token_ids, skip_special_tokens=True)
        assert item.ended == (item.token_ids[-1] == EOS)
        assert not any(text[:-1].count(string) for string in stops)
        assert item.ended or not text.endswith(tuple(stops))
    assert {item.ended for item in sampled} == {True, False}


def test_virtual_tokens_of_prompt_tuning_are_left_to_transformers():
    model = get_peft_model(make_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    engine = TransformersEngine(model, make_tokenizer(), batch_size=1, max_new_tokens=9)
    jobs = [Job(tokens_of(text), 0.0, 0) for text in TEXTS]
    for job, item in zip(jobs, run(engine, jobs), strict=True):
        plain = model.generate(
            input_ids=torch.tensor([job.prompt_ids]),
            do_sample=False,
            max_new_tokens=9,
            eos_token_id=EOS,
            pad_token_id=0,
        )
        assert item.token_ids == plain[0, len(job.prompt_ids) :].tolist()


def test_activated_loras_are_left_to_transformers():
    """They switch on where their tokens stand, for each prompt of `generate`."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=tokens_of("2"))
    model = get_peft_model(make_model(), config).eval()
    engine = TransformersEngine(model, make_tokenizer(), batch_size=8, max_new_tokens=9)
    jobs = [Job(tokens_of(text), 0.0, 0) for text in ("1+2=", "2+7=", "1+2=")]
    assert all(item.token_ids for item in run(engine, jobs))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(value):
    model = make_model()
    model.lm_head.weight.data[5] = value
    engine = TransformersEngine(model, make_tokenizer(), max_new_tokens=4)
    with pytest.raises(SamplingError, match="logits are NaN or infinite"):
        run(engine, [Job(tokens_of("1+2="), 1.0, seed) for seed in range(3)])


def test_the_gradient_mode_is_the_callers_between_chunks():
    engine = TransformersEngine(make_model(), make_tokenizer(), batch_size=2, max_new_tokens=4)
    for _ in engine.run([Job(tokens_of("1+2="), 1.0, seed) for seed in range(6)]):
        assert torch.is_grad_enabled()


class WithItsOwnGenerate(LlamaForCausalLM):
    """As models with remote code may have: it does not know the loop."""

    def generate(self, *args, custom_generate=None, **kwargs):
        return super().generate(*args, **kwargs)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_with_its_own_generate_keeps_it(wrapped):
    model = make_model()
    own = WithItsOwnGenerate(model.config)
    own.load_state_dict(model.state_dict())
    if wrapped:  # in place, as libraries that patch models do
        own, generate = model, model.generate
        own.generate = lambda *args, custom_generate=None, **kwargs: generate(*args, **kwargs)
    jobs = [Job(tokens_of(text), 0.0, seed) for seed, text in enumerate(TEXTS)]
    expected = run(TransformersEngine(make_model(), make_tokenizer(), batch_size=8, max_new_tokens=9), jobs)
    assert run(TransformersEngine(own, make_tokenizer(), batch_size=8, max_new_tokens=9), jobs) == expected
    assert all(item.token_ids for item in expected)


def test_limits_of_time_and_other_criteria_go_on_working():
    chunked = ChunkedGenerate(make_tokenizer(), {"max_new_tokens": 40, "max_time": 0.0}, [EOS])
    sampled = run(chunked, [Job(tokens_of("1+2="), 1.0, seed) for seed in range(20)], make_model().eval(), 20)
    assert {len(item.token_ids) for item in sampled} == {1}


# ---------------------------------------------------------------------- what it costs


def test_a_prompt_is_computed_once_and_ended_rows_leave():
    model = make_model().eval()
    shapes = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    engine = TransformersEngine(model, make_tokenizer(), batch_size=96, max_new_tokens=100)
    jobs = [Job(tokens_of(text), 1.0, seed) for text in ("1+2=", "4+5=", "1+34=") for seed in range(32)]
    lengths = [len(item.token_ids) for item in run(engine, jobs)]
    assert shapes[0] == (3, 5)
    assert {width for _, width in shapes[1:]} == {1}
    computed = 96 + sum(rows for rows, _ in shapes[1:])  # the prompts' last tokens give the first ones
    assert sum(lengths) <= computed < 1.2 * sum(lengths) < 0.8 * 96 * max(lengths)


def test_a_long_cache_grows_without_a_change():
    model, prompt = make_model(eos_token_id=None).eval(), tokens_of("1+2=")
    model.generation_config.eos_token_id = None
    engine = TransformersEngine(model, make_tokenizer(), batch_size=4, max_new_tokens=150)
    sampled = run(engine, [Job(prompt, 0.0, seed) for seed in range(4)])
    plain = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=150, eos_token_id=EOS)
    assert [item.token_ids for item in sampled] == [plain[0, len(prompt) :].tolist()] * 4
