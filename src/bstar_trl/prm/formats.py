"""The public families of process reward models: where their steps lie among the tokens, and which two of the model's
outputs mean *right* and *wrong*.

A step's probability of being right is the softmax over these two outputs. Each family is a small frozen dataclass;
change its options for a model of that family with other tags.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from ..errors import ConfigurationError
from .steps import SEPARATOR, Layout, lay_out_steps, reread, split_steps


class StepFormat(ABC):
    """A family of process reward models.

    Attributes:
        auto_class (`str`): name of the transformers class that loads the model.
        split (`str`): the text between two steps of a response, unless the user sets another one.
    """

    auto_class: ClassVar[str]
    split: str

    def cleaner(self, tokenizer: Any) -> Callable[[str], str]:
        """A function that removes the family's own marks from a text; a step that holds only marks becomes empty."""
        return str.strip

    @abstractmethod
    def lay_out(self, tokenizer: Any, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[Layout]:
        """Lay out one response per question; every response has at least one step.

        A layout has one position per step; more, or fewer, if steps hold the family's separator.
        """

    @abstractmethod
    def classes(self, tokenizer: Any, config: Any) -> tuple[int, int]:
        """The indices of the model's outputs for *wrong* and *right*.

        Raises:
            ConfigurationError: the tokenizer or the configuration does not belong to this family.
        """


@dataclass(frozen=True)
class TokenClassification(StepFormat):
    """TRL's format of process reward models: a token classifier with two classes, the second for *right*.

    The last token of the separator after each step bears the label (see `lay_out_steps`).
    """

    separator: str = SEPARATOR
    auto_class = "AutoModelForTokenClassification"

    @property
    def split(self) -> str:  # type: ignore[override]
        """Responses are split at the separator that joined the steps in training."""
        return self.separator

    def cleaner(self, tokenizer: Any) -> Callable[[str], str]:
        return lambda text: "".join(split_steps(text, self.separator)).strip()

    def lay_out(self, tokenizer: Any, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[Layout]:
        read = [reread(part, self.separator)[0] for part in steps]
        known = _Tokenized(tokenizer, {self.separator, *questions, *(step for part in read for step in part)})
        return [
            lay_out_steps(known, question, part, separator=self.separator)
            for question, part in zip(questions, read, strict=True)
        ]

    def classes(self, tokenizer: Any, config: Any) -> tuple[int, int]:
        if config.num_labels != 2:
            raise ConfigurationError(
                f"format 'token-classification' needs two classes, wrong and right, got {config.num_labels} labels"
            )
        if not _tokens(tokenizer, self.separator):
            raise ConfigurationError(f"the separator of steps must be at least one token, got {self.separator!r}")
        return 0, 1


@dataclass(frozen=True)
class MathShepherd(StepFormat):
    """peiyi9979/math-shepherd-mistral-7b-prm: a causal model that predicts `+` or `-` at the tag after each step.

    The text is `question step ки\\nstep ки`; the outputs are read at the tag itself.
    """

    tag: str = "ки"
    right: str = "+"
    wrong: str = "-"
    split: str = "\n"
    auto_class = "AutoModelForCausalLM"

    def cleaner(self, tokenizer: Any) -> Callable[[str], str]:
        # The tag only as a whole word: "ки" also ends Russian words.
        return _cleaner(tokenizer, rf"(?<!\w){re.escape(self.tag)}(?!\w)")

    def lay_out(self, tokenizer: Any, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[Layout]:
        clean = self.cleaner(tokenizer)
        texts, marks = [], []
        for question, part in zip(questions, steps, strict=True):
            lines = [f"{clean(step)} {self.tag}" for step in part]
            start = f"{clean(question)} "
            texts.append(start + "\n".join(lines))
            marks.append([len(start) + end - 2 for end in accumulate(len(line) + 1 for line in lines)])
        return _located(tokenizer, texts, steps, marks, _last_token(tokenizer, self.tag), add_special_tokens=True)

    def classes(self, tokenizer: Any, config: Any) -> tuple[int, int]:
        both = _tokens(tokenizer, f"{self.right} {self.wrong}")
        if len(both) != 2:
            raise ConfigurationError(
                f"Math-Shepherd's {self.right!r} and {self.wrong!r} must be one token each, but this tokenizer makes "
                f"{len(both)} tokens of {f'{self.right} {self.wrong}'!r}"
            )
        self.lay_out(tokenizer, ["1 + 1 = ?"], [["1 + 1 = 2", "2"]])
        return both[1], both[0]


@dataclass(frozen=True)
class RLHFlow(StepFormat):
    """RLHFlow/Llama3.1-8B-PRM-*: a causal model in a conversation. The user sends one step at a time, the first one
    after the question; the assistant answers each with `+` or `-`.

    Every answer is laid out as `+`; the outputs are read one token before it, at the position that predicts it.
    """

    split: str = "\n\n"
    auto_class = "AutoModelForCausalLM"

    def cleaner(self, tokenizer: Any) -> Callable[[str], str]:
        return _cleaner(tokenizer, _PLACE)

    def lay_out(self, tokenizer: Any, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[Layout]:
        clean = self.cleaner(tokenizer)
        conversations = [
            [
                {"role": role, "content": content}
                for number, step in enumerate(part)
                for role, content in (
                    ("user", clean(step) if number else f"{clean(question)} {clean(step)}"),
                    ("assistant", _PLACE),
                )
            ]
            for question, part in zip(questions, steps, strict=True)
        ]
        texts = tokenizer.apply_chat_template(conversations, tokenize=False)
        marks = [_occurrences(text, _PLACE) for text in texts]
        answered = [text.replace(_PLACE, "+") for text in texts]
        layouts = _located(tokenizer, answered, steps, marks, _last_token(tokenizer, "+"), add_special_tokens=False)
        return [Layout(item.token_ids[:-1], [position - 1 for position in item.positions]) for item in layouts]

    def classes(self, tokenizer: Any, config: Any) -> tuple[int, int]:
        if not tokenizer.chat_template:
            raise ConfigurationError(
                "format 'rlhflow' is a conversation, but this tokenizer has no chat template: got chat_template=None"
            )
        for answer in "-+":
            if len(_tokens(tokenizer, answer)) != 1:
                raise ConfigurationError(f"RLHFlow's {answer!r} must be one token, but this tokenizer splits it")
        self.lay_out(tokenizer, ["1 + 1 = ?"], [["1 + 1 = 2", "2"]])
        return _last_token(tokenizer, "-"), _last_token(tokenizer, "+")


@dataclass(frozen=True)
class QwenMath(StepFormat):
    r"""Qwen/Qwen2.5-Math-PRM-*: a two-class head in a conversation with a fixed system prompt. The token `<extra_0>`
    ends each step of the assistant's answer; the head is read there. The publishers advise to split on blank lines.
    """

    system: str = r"Please reason step by step, and put your final answer within \boxed{}."
    tag: str = "<extra_0>"
    split: str = "\n\n"
    auto_class = "AutoModel"

    def cleaner(self, tokenizer: Any) -> Callable[[str], str]:
        return _cleaner(tokenizer, re.escape(self.tag))

    def lay_out(self, tokenizer: Any, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[Layout]:
        clean = self.cleaner(tokenizer)
        conversations = [
            [
                {"role": "system", "content": self.system},
                {"role": "user", "content": clean(question)},
                {"role": "assistant", "content": "".join(clean(step) + self.tag for step in part)},
            ]
            for question, part in zip(questions, steps, strict=True)
        ]
        texts = tokenizer.apply_chat_template(conversations, tokenize=False)
        marks = [_occurrences(text, self.tag) for text in texts]
        return _located(tokenizer, texts, steps, marks, _last_token(tokenizer, self.tag), add_special_tokens=False)

    def classes(self, tokenizer: Any, config: Any) -> tuple[int, int]:
        if not tokenizer.chat_template or len(_tokens(tokenizer, self.tag)) != 1:
            raise ConfigurationError(
                f"format 'qwen' needs a chat template and the token {self.tag!r}, and this tokenizer lacks one of them"
            )
        self.lay_out(tokenizer, ["1 + 1 = ?"], [["1 + 1 = 2", "2"]])
        return 0, 1


FORMATS: dict[str, Callable[[], StepFormat]] = {
    "token-classification": TokenClassification,
    "math-shepherd": MathShepherd,
    "rlhflow": RLHFlow,
    "qwen": QwenMath,
}


def find_format(wanted: str | StepFormat, architecture: str, config: Any, tokenizer: Any) -> StepFormat:
    """The family of a model.

    With `"auto"` the architecture decides; a causal model with a chat template belongs to RLHFlow, one without to
    Math-Shepherd. A token classifier's separator is `step_separator` in its configuration, or else a line break.

    Args:
        wanted (`str` or `StepFormat`): a family's name, a family with options, or `"auto"`.
        architecture (`str`): name of the model's class.
        config: the model's configuration.
        tokenizer: the model's tokenizer.

    Raises:
        ConfigurationError: an unknown family.
    """
    if isinstance(wanted, StepFormat):
        return wanted
    name = wanted if wanted != "auto" else _family(architecture, tokenizer)
    if name not in FORMATS:
        what = (
            f"a model of class {architecture or 'unknown'!r} is of no known family of process reward models"
            if wanted == "auto"
            else f"unknown format {wanted!r}"
        )
        raise ConfigurationError(
            f"{what}: name it, format= one of {', '.join(map(repr, FORMATS))}, or pass a StepFormat of your own"
        )
    if name == "token-classification":
        return TokenClassification(getattr(config, "step_separator", None) or SEPARATOR)
    return FORMATS[name]()


def _family(architecture: str, tokenizer: Any) -> str:
    if architecture.endswith("ForTokenClassification"):
        return "token-classification"
    if architecture.endswith("ForProcessRewardModel") and QwenMath.tag in tokenizer.get_vocab():
        return "qwen"
    if architecture.endswith("ForCausalLM"):
        return "rlhflow" if tokenizer.chat_template else "math-shepherd"
    return ""


_PLACE = "\ue000"  # a private-use character that holds the place of the assistant's `+`


class _Tokenized:
    """A tokenizer for a known set of texts: it tokenises each text once, all in one call."""

    def __init__(self, tokenizer: Any, texts: set[str]):
        self.bos_token_id = tokenizer.bos_token_id
        ordered = sorted(texts)
        self._ids = dict(zip(ordered, tokenizer(ordered, add_special_tokens=False)["input_ids"], strict=True))

    def __call__(self, text: str, add_special_tokens: bool = False) -> Mapping[str, list[int]]:
        return {"input_ids": self._ids[text]}


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _last_token(tokenizer: Any, text: str) -> int:
    return _tokens(tokenizer, text)[-1]


def _occurrences(text: str, mark: str) -> list[int]:
    return [match.end() - 1 for match in re.finditer(re.escape(mark), text)]


def _cleaner(tokenizer: Any, tag: str) -> Callable[[str], str]:
    """A function that removes the tag (a pattern) and special tokens, so that no response can write marks or turns."""
    special = {re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
    marks = re.compile("|".join([tag, *sorted(special)]))

    def clean(text: str) -> str:
        while (shorter := marks.sub("", text)) != text:  # removing one mark may join the text around it to another
            text = shorter
        return text.strip()

    return clean


def _located(
    tokenizer: Any,
    texts: Sequence[str],
    steps: Sequence[Sequence[str]],
    marks: Sequence[Sequence[int]],
    token_id: int,
    *,
    add_special_tokens: bool,
) -> list[Layout]:
    """Token ids of each text up to its last mark, and the positions of the tokens that hold its marked characters.

    Raises:
        ConfigurationError: a marked token is not `token_id` (the tokenizer merges the tag with its neighbours), or a
            text's number of marks differs from its number of steps.
    """
    if not tokenizer.is_fast:
        raise ConfigurationError(
            f"this format needs a fast tokenizer, which maps characters to tokens, got {type(tokenizer).__name__}"
        )
    encoded = tokenizer(list(texts), add_special_tokens=add_special_tokens)
    layouts = []
    for row, (part, ends) in enumerate(zip(steps, marks, strict=True)):
        if len(ends) != len(part):
            raise ConfigurationError(
                f"every step must have one tag, but the text of {len(part)} steps has {len(ends)}: does the chat "
                f"template, or the system prompt, change or repeat the messages? {texts[row][-200:]!r}"
            )
        token_ids = encoded["input_ids"][row]
        positions = [encoded.char_to_token(row, end) for end in ends]
        found = [None if position is None else token_ids[position] for position in positions]
        if found != [token_id] * len(ends):
            raise ConfigurationError(
                f"the step tag must stay one token (id {token_id}) wherever it stands, but this tokenizer gave "
                f"{found} in {texts[row][-200:]!r}: is it the model's own tokenizer?"
            )
        layouts.append(Layout(token_ids[: positions[-1] + 1], positions))
    return layouts
