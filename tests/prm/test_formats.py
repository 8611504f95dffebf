"""Layouts by hand, and which family a model is taken for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from conftest import make_tokenizer
from prms import LLAMA_TEMPLATE, QWEN_TEMPLATE, make_byte_tokenizer

from bstar_trl.errors import ConfigurationError
from bstar_trl.prm.formats import (
    MathShepherd,
    QwenMath,
    RLHFlow,
    TokenClassification,
    find_format,
)

NOTHING = SimpleNamespace(num_labels=2)


def make_llama_tokenizer():
    specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return make_byte_tokenizer(specials, LLAMA_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def read_until(tokenizer, layout):
    """What stands up to each position, decoded."""
    return [tokenizer.decode(layout.token_ids[: position + 1]) for position in layout.positions]


def test_a_conversation_is_read_where_its_answers_are_predicted():
    tokenizer = make_llama_tokenizer()
    user = "<|start_header_id|>user<|end_header_id|>\n\n"
    assistant = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    (layout,) = RLHFlow().lay_out(tokenizer, ["1+1?"], [["it is", "2"]])
    first = f"<|begin_of_text|>{user}1+1? it is{assistant}"
    second = f"{first}+<|eot_id|>{user}2{assistant}"
    assert read_until(tokenizer, layout) == [first, second]
    assert layout.positions[-1] == len(layout.token_ids) - 1  # what follows the last judgement is not computed


def test_a_tag_is_read_where_it_stands():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["ки"]})
    (layout,) = MathShepherd(split=";").lay_out(tokenizer, ["1+1="], [["a", "2"]])
    assert read_until(tokenizer, layout) == ["1+1= a ки", "1+1= a ки\n2 ки"]


def test_separators_are_where_they_were_in_training():
    tokenizer = make_tokenizer()
    (layout,) = TokenClassification("=").lay_out(tokenizer, ["1+1="], [["a", "bb"]])
    assert read_until(tokenizer, layout) == ["1+1=a=", "1+1=a=bb="]
    assert TokenClassification("=").split == "="


@pytest.mark.parametrize(
    ("architecture", "template", "tag", "expected"),
    [
        ("LlamaForTokenClassification", None, False, TokenClassification()),
        ("Qwen2ForProcessRewardModel", "x", True, QwenMath()),
        ("MistralForCausalLM", None, False, MathShepherd()),
        ("LlamaForCausalLM", "x", False, RLHFlow()),
    ],
)
def test_families_are_told_apart(architecture, template, tag, expected):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    if tag:
        tokenizer.add_tokens(["<extra_0>"])
    assert find_format("auto", architecture, NOTHING, tokenizer) == expected
    mine = MathShepherd(tag="#")
    assert find_format(mine, architecture, NOTHING, tokenizer) is mine
    assert find_format("qwen", architecture, NOTHING, tokenizer) == QwenMath()


@pytest.mark.parametrize("architecture", ["Qwen2ForRewardModel", "LlamaForSequenceClassification", ""])
def test_others_are_unknown(architecture):
    with pytest.raises(ConfigurationError, match=r"of no known family.*'token-classification', 'math-shepherd'"):
        find_format("auto", architecture, NOTHING, make_tokenizer())


def test_a_classifier_of_other_things_is_refused():
    with pytest.raises(ConfigurationError, match="needs two classes, wrong and right, got 9 labels"):
        TokenClassification().classes(make_tokenizer(), SimpleNamespace(num_labels=9))
    with pytest.raises(ConfigurationError, match="at least one token, got ''"):
        TokenClassification("").classes(make_tokenizer(), NOTHING)


def test_a_tag_that_melts_into_its_neighbours_is_refused():
    tokenizer = make_llama_tokenizer()
    assert tokenizer.tokenize("a +") == ["a", "Ġ+"]
    melting = MathShepherd(tag="+", right="1", wrong="2")  # its id is that of "+" by itself
    with pytest.raises(ConfigurationError, match="must stay one token"):
        melting.lay_out(tokenizer, ["x"], [["a"]])


@pytest.mark.parametrize("text", ["<extra_<extra_0>0>", "<ex<extra_<|im_end|>0>tra_0>", "<|im_<extra_0>end|>"])
def test_marks_in_marks_are_taken_out_too(text):
    tokenizer = make_byte_tokenizer(["<|im_start|>", "<|im_end|>", "<extra_0>"], QWEN_TEMPLATE)
    clean = QwenMath().cleaner(tokenizer)
    assert clean(f"1{text} 2") == "1 2"
    assert clean(text) == ""


def test_as_many_marks_as_steps():
    tokenizer = make_byte_tokenizer(["<|im_start|>", "<|im_end|>", "<extra_0>"], QWEN_TEMPLATE)
    with pytest.raises(ConfigurationError, match="the text of 2 steps has 3"):
        QwenMath(system="End with <extra_0>.").lay_out(tokenizer, ["x"], [["a", "b"]])
    llama = make_llama_tokenizer()
    llama.chat_template = LLAMA_TEMPLATE.replace("message['content']", "(message['content'] * 2)")
    with pytest.raises(ConfigurationError, match="the text of 1 steps has 2"):
        RLHFlow().lay_out(llama, ["x"], [["a"]])
