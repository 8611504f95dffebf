"""The public families of process reward models, each against scores computed another way; and what has no score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_config, make_model, make_tokenizer
from prms import QWEN_SYSTEM, make_math_shepherd, make_qwen, make_rlhflow, make_token_classifier
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
)

from bstar_trl.errors import ConfigurationError, RewardError
from bstar_trl.process_rewards.formats import MathShepherd, TokenClassification
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
    model = reward._model()
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
    assert type(reward._model()).__module__.startswith("transformers_modules")
    own = ProcessReward(folders["qwen"])
    assert type(own._model()).__module__ == "bstar_trl.process_rewards.models"
    for mine, other in zip(
        reward.step_scores(PROMPTS, ["a\n\nb"] * 5), own.step_scores(PROMPTS, ["a\n\nb"] * 5), strict=True
    ):
        np.testing.assert_allclose(mine, other, atol=1e-6)
