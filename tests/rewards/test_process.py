"""The public families of process reward models, each against scores computed another way; and what has no score."""

from __future__ import annotations

import copy
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_config, make_model, make_tokenizer
from peft import LoraConfig, get_peft_model
from prms import QWEN_SYSTEM, make_math_shepherd, make_qwen, make_rlhflow, make_token_classifier
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2Model,
)

from bstar_trl.errors import ConfigurationError, DatasetError, RewardError
from bstar_trl.prm.formats import TokenClassification
from bstar_trl.rewards import ProcessReward

PROMPTS = ["1+2+3=", "4+4=", "9+9+9+9=", "7+7=", "2+2+2="]
STEPS = [
    ["a 1+2 = 3", "b 3+3 = 6"],
    ["8"],
    ["9+9 = 18", "a", "18+9 = 27", "27+9 = 36", "e", "f the", "a b c"],
    ["7+7 = 14", "so 14"],
    ["2+2 = 4. 4+2 = 6", "the 6", "6"],
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every family on disk."""
    root = tmp_path_factory.mktemp("prms")
    paths = {name: root / name for name in ("token-classification", "math-shepherd", "rlhflow", "qwen")}
    for path in paths.values():
        path.mkdir()
    qwen, backbone, head = make_qwen(paths["qwen"])
    return {
        "token-classification": make_token_classifier(paths["token-classification"], bos=True),
        "math-shepherd": make_math_shepherd(paths["math-shepherd"]),
        "rlhflow": make_rlhflow(paths["rlhflow"]),
        "qwen": qwen,
        "qwen parts": (backbone, head),
    }


def expected_token_classification(folders, prompt, steps):
    """One forward pass per step, over that prefix alone."""
    path = folders["token-classification"]
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ids = [tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(list(prompt))]
    scores = []
    for step in steps:
        ids += tokenizer.convert_tokens_to_ids([*step, "\n"])
        scores.append(model(torch.tensor([ids])).logits[0, -1].softmax(-1)[1].item())
    return scores


def expected_math_shepherd(folders, prompt, steps):
    """The published way: the whole text, all logits, the tag's token id looked for."""
    path = folders["math-shepherd"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    text = f"{prompt} " + "\n".join(f"{step} ки" for step in steps)
    ids = torch.tensor([tokenizer.encode(text)])
    candidates = tokenizer.encode("+ -")[1:]
    scores = model(ids).logits[:, :, candidates].softmax(-1)[:, :, 0]
    return scores[ids == tokenizer.encode("ки")[-1]].tolist()


def expected_rlhflow(folders, prompt, steps):
    """The published way: a forward pass per step, the answer predicted by the third token from the end."""
    path = folders["rlhflow"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    text, scores = "<|begin_of_text|>", []
    for number, step in enumerate(steps):
        said = step if number else f"{prompt} {step}"
        text += f"<|start_header_id|>user<|end_header_id|>\n\n{said}<|eot_id|>"
        text += "<|start_header_id|>assistant<|end_header_id|>\n\n+<|eot_id|>"
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
        scores.append(model(ids).logits[0, -3, candidates].softmax(-1)[0].item())
    return scores


def expected_qwen(folders, prompt, steps):
    """The published way: the probability of the second class where the tag's token id stands."""
    tokenizer = AutoTokenizer.from_pretrained(folders["rlhflow"].replace("rlhflow", "qwen"))
    backbone, head = folders["qwen parts"]
    text = (
        f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
        f"<|im_start|>assistant\n{'<extra_0>'.join(steps)}<extra_0><|im_end|>\n"
    )
    ids = torch.tensor([tokenizer.encode(text)])
    scores = head(backbone(ids).last_hidden_state).softmax(-1)[0, :, 1]
    return scores[ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>")].tolist()


EXPECTED = {
    "token-classification": expected_token_classification,
    "math-shepherd": expected_math_shepherd,
    "rlhflow": expected_rlhflow,
    "qwen": expected_qwen,
}
JOIN = {"token-classification": "\n", "math-shepherd": "\n", "rlhflow": "\n\n", "qwen": "\n\n"}


@pytest.mark.parametrize("family", EXPECTED)
@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000], ids=["alone", "few", "all"])
def test_every_family_scores_as_published(folders, family, batch_tokens):
    with torch.no_grad():
        expected = [EXPECTED[family](folders, *pair) for pair in zip(PROMPTS, STEPS, strict=True)]
    assert np.ptp(np.concatenate(expected)) > 0.1  # the model says something
    reward = ProcessReward(folders[family], batch_tokens=batch_tokens)
    responses = [JOIN[family].join(steps) for steps in STEPS]
    found = reward.step_scores(PROMPTS, responses)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-6)
    values = [score.value for score in reward.score(PROMPTS, responses)]
    np.testing.assert_allclose(values, [2 * min(scores) - 1 for scores in expected], atol=4e-6)


@pytest.mark.parametrize("family", EXPECTED)
def test_one_row_of_one_forward_pass_per_response(folders, family):
    reward = ProcessReward(folders[family])
    model = reward.model.model
    rows = []
    model.register_forward_pre_hook(
        lambda module, inputs, keywords: rows.extend(keywords["input_ids"].tolist()), with_kwargs=True
    )
    reward.score(PROMPTS, [JOIN[family].join(steps) for steps in STEPS])
    assert len(rows) == len(STEPS)


def test_published_qwen_code_runs_where_it_is_allowed(folders, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    reward = ProcessReward(folders["qwen"], trust_remote_code=True)
    assert type(reward.model.model).__module__.startswith("transformers_modules")
    own = ProcessReward(folders["qwen"])
    assert type(own.model.model).__module__ == "bstar_trl.prm.model"
    for mine, other in zip(
        reward.step_scores(PROMPTS, ["a\n\nb"] * 5), own.step_scores(PROMPTS, ["a\n\nb"] * 5), strict=True
    ):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_what_cannot_be_scored_gets_the_lowest_reward_and_a_reason(folders, caplog):
    reward = ProcessReward(folders["token-classification"])
    long = "a\n" * 300  # 600 tokens, and the model reads 512
    scores = reward.score(["1+1="] * 5, ["", " \n \n", long, "2", long + "b"])
    assert [item.value for item in scores[:3]] == [-1.0, -1.0, -1.0]
    assert [item.reason.split(":")[0] for item in scores[:3]] == ["no steps", "no steps", "too long"]
    assert scores[3].value == reward.score(["1+1="], ["2"])[0].value > -1.0
    assert "longer than the 512 tokens" in caplog.text
    assert len(caplog.records) == 1
    reward.score(["1+1="], [long])
    assert len(caplog.records) == 1  # said once
    steps = reward.step_scores(["1+1="] * 2, ["", long])
    assert steps[0].shape == (0,)
    assert steps[1].shape == (300,)
    assert np.isnan(steps[1]).all()


def test_length_is_judged_to_the_token(folders):
    path = folders["token-classification"]
    tokens = 1 + 4 + 2 + 2  # BOS, the question, two steps with their separators
    assert ProcessReward(path, max_length=tokens).score(["1+1="], ["2\n3"])[0].value > -1
    assert ProcessReward(path, max_length=tokens - 1).score(["1+1="], ["2\n3"])[0].value == -1


@pytest.mark.parametrize(
    ("reduce", "by_hand"),
    [
        ("min", lambda scores: min(scores)),
        ("prod", lambda scores: scores[0] * scores[1] * scores[2]),
        ("mean", lambda scores: sum(scores) / 3),
        ("last", lambda scores: scores[2]),
        (lambda scores_S: scores_S[0], lambda scores: scores[0]),
    ],
)
def test_reductions(folders, reduce, by_hand):
    reward = ProcessReward(folders["token-classification"], reduce=reduce)
    expected = expected_token_classification(folders, "1+2=", ["a", "b c", "3"])
    assert reward(["1+2="], ["a\nb c\n3"]) == [pytest.approx(2 * by_hand(expected) - 1, abs=1e-5)]


def test_a_reduction_that_gives_no_probability_is_an_error(folders):
    for reduce in (lambda scores_S: 2.0, lambda scores_S: float("nan")):
        with pytest.raises(RewardError, match=r"reduce of 'ProcessReward' must give a number in 0\.\.1"):
            ProcessReward(folders["token-classification"], reduce=reduce).score(["1"], ["2"])
    with pytest.raises(
        ConfigurationError, match="reduce must be one of min, prod, mean, last or a function, got 'max'"
    ):
        ProcessReward(folders["token-classification"], reduce="max")


def test_steps_are_split_as_told(folders):
    path = folders["token-classification"]
    lines = ProcessReward(path).step_scores(["1="], ["a\nb\n\nc\n"])[0]
    assert len(lines) == 3
    for split in (";", lambda text: ["a", " ", "b", "c"]):
        np.testing.assert_array_equal(ProcessReward(path, split=split).step_scores(["1="], ["a;b;;c"])[0], lines)


def test_a_separator_of_its_own(folders, tmp_path):
    path = folders["token-classification"]
    given = ProcessReward(path, format=TokenClassification("=")).step_scores(["1+2+3="], ["3+3=6"])[0]
    assert len(given) == 2
    shutil.copytree(path, tmp_path / "trained")
    model = LlamaForTokenClassification.from_pretrained(path)
    model.config.step_separator = "="
    model.save_pretrained(tmp_path / "trained")
    named = ProcessReward(str(tmp_path / "trained")).step_scores(["1+2+3="], ["3+3=6"])[0]
    np.testing.assert_array_equal(named, given)
    tokenizer = make_tokenizer()
    ids = [1, *tokenizer.convert_tokens_to_ids(list("1+2+3=3+3=6="))]  # the last step is closed as well
    probabilities = model(torch.tensor([ids])).logits[0].softmax(-1)[:, 1].detach()
    np.testing.assert_allclose(given, probabilities[[10, 12]], atol=1e-6)


def test_steps_that_hold_the_separator(folders, caplog):
    """A `split` of one's own may leave it there: the layout is that of training, and one warning says so."""
    path = folders["token-classification"]
    lines = ProcessReward(path).step_scores(["1="], ["a\nb\nc"])[0]
    assert len(lines) == 3
    assert not caplog.records
    reward = ProcessReward(path, split="; ")
    for _ in range(2):
        np.testing.assert_array_equal(reward.step_scores(["1="], ["a\nb; c"])[0], lines)
    assert len(caplog.records) == 1
    assert "1 of 1 responses have steps that hold the separator" in caplog.text
    keeping = ProcessReward(path, split=lambda text: text.splitlines(keepends=True))
    np.testing.assert_array_equal(keeping.step_scores(["1="], ["a\nb\n\nc\n"])[0], lines)
    alone = ProcessReward(path, format=TokenClassification("="), split=lambda text: text.split(";"))
    assert [len(found) for found in alone.step_scores(["1="] * 3, ["=", "a;=;b", "= ="])] == [0, 2, 0]
    assert alone.score(["1="], ["="])[0].value == -1


def test_conversations_ask_by_the_users_last_message(folders):
    reward = ProcessReward(folders["qwen"])
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "1+1="},
    ]
    text = [{"role": "assistant", "content": "1+1 = 2\n\n2"}]
    assert reward([talk], [text]) == reward(["1+1="], ["1+1 = 2\n\n2"]) != reward(["Hello"], ["1+1 = 2\n\n2"])
    shouting = ProcessReward(folders["qwen"], question=lambda prompt: prompt.removeprefix("Q: "))
    assert shouting(["Q: 1+1="], ["2"]) == reward(["1+1="], ["2"])
    with pytest.raises(DatasetError, match="the user's last message"):
        reward([talk[:1]], [text])


@pytest.mark.parametrize(
    ("family", "mark"),
    [
        ("math-shepherd", " ки"),
        ("math-shepherd", "</s>"),
        ("rlhflow", "\ue000"),
        ("rlhflow", "<|eot_id|>"),
        ("qwen", "<extra_0>"),
        ("qwen", "<|im_end|>"),
    ],
)
def test_a_response_cannot_write_its_own_marks(folders, family, mark):
    reward = ProcessReward(folders[family], split="\n")
    plain = reward.step_scores(["1+1="], ["a 1+1 = 2\nb"])
    marked = reward.step_scores([f"1+1={mark}"], [f"a 1+1 = 2{mark}\nb{mark}"])
    np.testing.assert_array_equal(marked, plain)


@pytest.mark.parametrize(
    ("family", "mark"), [("math-shepherd", "ки"), ("qwen", "<extra_0>"), ("rlhflow", "<|eot_id|>")]
)
def test_a_step_of_nothing_but_marks_is_none(folders, family, mark):
    reward = ProcessReward(folders[family], split="\n")
    (score,) = reward.score(["1+1="], [f"{mark}\n {mark} "])
    assert score.value == -1.0
    assert score.reason.startswith("no steps")
    np.testing.assert_array_equal(
        reward.step_scores(["1+1="], [f"{mark}\na\n{mark}\nb"])[0], reward.step_scores(["1+1="], ["a\nb"])[0]
    )


@pytest.mark.parametrize("format", ["token-classification", "qwen"])
def test_a_model_without_the_familys_head_is_refused(folders, tmp_path, format):
    source = folders["qwen" if format == "qwen" else "rlhflow"]
    shutil.copytree(source, tmp_path / "base")
    config = AutoConfig.from_pretrained(source)
    if format == "qwen":
        config = Qwen2Config(**{name: value for name, value in config.to_dict().items() if name != "auto_map"})
        config.architectures = ["Qwen2ForProcessRewardModel"]
        Qwen2Model(config).save_pretrained(tmp_path / "base")
    config.architectures = ["Qwen2ForProcessRewardModel"] if format == "qwen" else config.architectures
    config.save_pretrained(tmp_path / "base")
    with pytest.raises(ConfigurationError, match=r"no model of the family .*no weights for score"):
        ProcessReward(str(tmp_path / "base"), format=format)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_length": "5"}, "max_length must be a whole number, got '5'"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"batch_tokens": 1.5}, "batch_tokens must be a whole number, got 1.5"),
        ({"split": ""}, "split must be a text of at least one character"),
        ({"split": 3}, "split must be a text or a function, got 3"),
        ({"question": "prompt"}, "question must be a function from a prompt to a text, got 'prompt'"),
        ({"reduce": ["min"]}, r"reduce must be one of .* or a function, got \['min'\]"),
        ({"model": None}, "model must be a name, a folder or a loaded model, got None"),
        ({"model": "no/such-model"}, "cannot load the model 'no/such-model'"),
    ],
)
def test_arguments_that_cannot_work(folders, wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        ProcessReward(**{"model": folders["token-classification"], **wrong})


def test_a_copy_scores_alike(folders):
    reward = ProcessReward(folders["token-classification"], name="prm")
    expected = reward(PROMPTS, ["a\nb"] * 5)
    for other in (copy.deepcopy(reward), pickle.loads(pickle.dumps(reward))):
        assert other.name == "prm"
        assert other(PROMPTS, ["a\nb"] * 5) == expected
        assert other.model.model is not reward.model.model


def test_a_word_with_the_tag_in_it_is_no_step(folders):
    reward = ProcessReward(folders["math-shepherd"])
    scores = expected_math_shepherd(folders, "1+1=", ["a кино", "2"])  # the published way counts the word as a step
    assert len(scores) == 3
    np.testing.assert_allclose(reward.step_scores(["1+1="], ["a кино\n2"])[0], [scores[1], scores[2]], atol=2e-6)


def test_an_unknown_family_is_refused_before_weights_are_loaded(folders, tmp_path):
    path = str(tmp_path / "orm")
    LlamaForSequenceClassification(make_config(num_labels=1)).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    Path(path, "model.safetensors").unlink()
    choices = "'token-classification', 'math-shepherd', 'rlhflow', 'qwen'"
    with pytest.raises(ConfigurationError, match=f"'LlamaForSequenceClassification' is of no known.*{choices}"):
        ProcessReward(path)
    with pytest.raises(ConfigurationError, match=f"unknown format 'prm'.*{choices}"):
        ProcessReward(path, format="prm")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("math-shepherd", r"'\+' and '-' must be one token each|step tag must stay one token"),
        ("rlhflow", "needs one|no chat template"),
        ("qwen", "needs a chat template and the token '<extra_0>'"),
    ],
)
def test_another_familys_tokenizer_is_refused(tmp_path, format, message):
    make_model().save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        ProcessReward(str(tmp_path), format=format)


def test_a_language_model_that_is_no_reward_model_is_noticed(folders, caplog):
    reward = ProcessReward(folders["math-shepherd"], name="prm")
    reward.model.model.lm_head.weight.data *= 0.01  # about even over all tokens, as no trained reward model is
    reward.score(["1+1="], ["2"])
    assert "the model of 'prm' gives only" in caplog.text
    caplog.clear()
    trained = ProcessReward(folders["math-shepherd"])
    head = torch.nn.Linear(32, trained.model.model.lm_head.out_features)
    head.bias.data[trained.model.tokenizer.encode("+ -")[1:]] = 20.0
    trained.model.model.lm_head = trained.model._head = head
    trained.score(["1+1="], ["2"])
    ProcessReward(folders["token-classification"]).score(["1+1="], ["2"])  # has nothing else to say
    assert not caplog.records


def test_outputs_that_are_not_finite_are_an_error(folders):
    reward = ProcessReward(folders["token-classification"])
    reward.model.model.score.weight.data[:] = float("nan")
    with pytest.raises(RewardError, match="not finite"):
        reward.score(["1"], ["2"])


def test_a_loaded_model_and_dropout(folders):
    path = folders["token-classification"]
    model = LlamaForTokenClassification.from_pretrained(path, attention_dropout=0.5).train()
    loaded = ProcessReward(model)
    np.testing.assert_array_equal(loaded(PROMPTS, ["a\nb"] * 5), ProcessReward(path)(PROMPTS, ["a\nb"] * 5))
    loaded.close()
    assert loaded(PROMPTS[:1], ["a\nb"])[0] is not None
    expected = loaded(PROMPTS, ["a\nb"] * 5)
    for half in (ProcessReward(path, dtype=torch.bfloat16), ProcessReward(model, dtype=torch.bfloat16)):
        assert half.model.model.dtype == torch.bfloat16
        np.testing.assert_allclose(half(PROMPTS, ["a\nb"] * 5), expected, atol=0.05)


@pytest.mark.parametrize("task", ["TOKEN_CLS", None])
def test_an_adapter(folders, task):
    path = folders["token-classification"]
    base = LlamaForTokenClassification.from_pretrained(path)
    lora = LoraConfig(task_type=task, target_modules=["q_proj", "up_proj"], init_lora_weights=False, lora_alpha=4)
    torch.manual_seed(0)
    model = get_peft_model(base, lora).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    reward = ProcessReward(model, tokenizer=tokenizer)
    ids = [tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(list("1=a\nb\n"))]
    expected = model(torch.tensor([ids])).logits[0].softmax(-1)[[4, 6], 1].detach()
    np.testing.assert_allclose(reward.step_scores(["1=", "1="], ["a\nb", "a b c d"])[0], expected, atol=1e-6)
    plain = ProcessReward(path).step_scores(["1="], ["a\nb"])[0]
    assert np.abs(plain - expected.numpy()).max() > 1e-3


def test_a_model_that_reads_both_ways_does_not_see_padding():
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
    )
    model = BertForTokenClassification(config).eval()
    reward = ProcessReward(model, tokenizer=tokenizer)
    together = reward.step_scores(["1=", "1+1="], ["a\nb", "a b c d e f g\nh\n1\n2"])
    ids = tokenizer("1=a\nb\n", return_tensors="pt")["input_ids"]
    np.testing.assert_allclose(together[0], model(ids).logits[0, [3, 5]].softmax(-1)[:, 1].detach(), atol=1e-6)


def test_threads_do_not_meet(folders):
    reward = ProcessReward(folders["token-classification"], batch_tokens=64)
    inputs = [([prompt] * 3, ["\n".join(steps), "a", "b\nc"]) for prompt, steps in zip(PROMPTS, STEPS, strict=True)]
    alone = [reward(*item) for item in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(lambda item: reward(*item), inputs)) == alone


def test_equal_responses_are_read_once(folders):
    reward = ProcessReward(folders["token-classification"])
    rows = []
    reward.model.model.register_forward_pre_hook(
        lambda module, inputs, keywords: rows.extend(keywords["input_ids"].tolist()), with_kwargs=True
    )
    values = reward(["1=", "1=", "2=", "1="], ["a\nb", "a\nb", "a\nb", "a\n\nb\n"])
    assert len(rows) == 2
    assert values[0] == values[1] == values[3] != values[2]


def test_four_bits_without_bitsandbytes(folders, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install .bstar-trl\[quantization"):
        ProcessReward(folders["token-classification"], load_in_4bit=True)


def test_four_bits(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    path = make_token_classifier(tmp_path, hidden_size=64, intermediate_size=128)
    reward = ProcessReward(path, load_in_4bit=True)
    layers = reward.model.model.model.layers
    assert isinstance(layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)
    assert type(reward.model.model.score) is torch.nn.Linear
    ids = torch.tensor([make_tokenizer()("1=a\nb\n")["input_ids"]])
    expected = reward.model.model(ids).logits[0, [3, 5]].float().softmax(-1)[:, 1].detach()
    np.testing.assert_allclose(reward.step_scores(["1="], ["a\nb"])[0], expected, atol=0.02)
