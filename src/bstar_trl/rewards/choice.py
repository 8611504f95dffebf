"""`MultipleChoice`, the verifier that compares a response's choice with the right label."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..answers.notation import shown
from ..answers.statements import STATEMENTS, Statement, spoken, statements
from ..errors import RewardError
from .base import RewardFn, Score, column_of, refuse_value

_WRAPPER = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox|boxed)\s?\{([^{}]{0,500})\}")
_LEAD = re.compile(
    r"(?:(?:the|most|correct|best|likely|right|definitely|clearly|probably|both|either|option|choice|letter|answer|is)"
    r"\b[\s:]*)+",
    re.IGNORECASE,
)
_NAMES = re.compile(
    r"""\b(?: (?:option|choice|letter|selected|correct)["']?\s* (?: (?:is|(?:would|must|should)\ be)\b | : )
          | (?:choose|chose|pick|select|go(?:ing)?\ with)\b )
        [\s*"']{0,9}([^\n"}]{1,500})""",
    re.IGNORECASE | re.VERBOSE,
)
_DENIAL = re.compile(r"(?:[a-z]+ly\s)?(?:not|never|neither)\b", re.IGNORECASE)
_FORMULA = re.compile(r"\$|\\[()\[\]]")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# May follow a label without punctuation: "A because ...", but not "A plant" or "3 planets".
_AFTER_LABEL = r"(?=\s*(?:$|[,;\u2014\u2013&/(]|-\s|(?:because|since|as|is|and|or|due|which|for|rather|not|but)\b))"


class MultipleChoice(RewardFn):
    r"""A verifier: 1 if the response chooses the right label, else 0, with a reason.

    The *last* choice that the response states counts: `\boxed{B}`, `<answer>B</answer>`, `#### B`, "the answer is
    (B)", "Answer: B", `{"answer": "B"}`, "option B is correct", "I choose B", "therefore B", a line that is a label
    ("B", "**B**", "(B)", "Option B") or begins with one ("B. photosynthesis"). The full text of a choice may stand for
    its label, in these places or as the last line. Lines that list several choices ("A. ...", "B. ...") state no
    choice, nor does a box with a formula if something else does. A statement with two labels, or with a label and
    another choice's text, is ambiguous and scores 0. An article is not a label: "A plant needs light" chooses nothing.

    The score is `None` (*cannot be judged*) if the gold label is not one of the row's labels.

    Args:
        column (`str`): the dataset column of right labels, such as "C", "(c)" or "3".
        choices (`str`): the dataset column of choices: `{"label": [...], "text": [...]}`, as in ARC, or a list of
            texts, as in MMLU. A list has the labels A, B, C, ..., and a number as the gold label is an index that
            starts at 0. Without this column the labels are A to E, or 1 to 5 if the gold label is a digit (A to J and
            1 to 10 if it lies beyond these), and texts do not stand for labels.
        name (`str`, *optional*): the name in logs.

    The chance that wrong reasoning ends on the right label is 1 / number of the row's choices ([`chance_of`]).
    """

    is_verifier = True

    def __init__(self, column: str = "answer", *, choices: str = "choices", name: str | None = None):
        super().__init__(name)
        self.column = column
        self.choices = choices
        self.columns = (column,)

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuse a gold label that is neither a text nor a whole number, and choices of another kind.

        A gold label of `None` is left to [`score`].
        """
        gold = row.get(self.column)
        if gold is None:
            return
        if isinstance(gold, bool) or not isinstance(gold, str | numbers.Integral):
            refuse_value(gold, self.column, self.name, "right labels: texts or whole numbers")
        _Choices.read(row.get(self.choices), str(gold))

    def chance_of(self, row: Mapping[str, Any]) -> float | None:
        """1 / number of the row's choices; `None` for a single choice."""
        choices = _Choices.read(row.get(self.choices), str(row.get(self.column)).strip())
        return 1 / len(choices.labels) if len(choices.labels) > 1 else None

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion: 1, 0 or `None`, with a reason.

        Raises:
            DatasetError: the gold column is missing.
            RewardError: the column of choices holds neither labels and texts nor a list of texts.
        """
        golds = column_of(columns, self.column, self.name)
        rows = columns.get(self.choices, [None] * len(completions))
        return [
            _judge(spoken(text), str(gold).strip(), row)
            for text, gold, row in zip(completions, golds, rows, strict=True)
        ]


def _judge(text: str, written: str, row: Any) -> Score:
    choices = _Choices.read(row, written)
    gold = choices.gold(written)
    if gold is None:
        return Score(None, f"gold {shown(written)!r} is not one of the labels {', '.join(choices.labels)}")
    labels, statement = choices.chosen(text)
    if len(labels) > 1:
        return Score(0.0, f"ambiguous answer {', '.join(sorted(labels))}")
    if not labels:
        return Score(0.0, "no answer" if statement is None else f"no choice in {shown(statement.content)!r}")
    label = labels.pop()
    return Score(1.0, "correct") if label == gold else Score(0.0, f"wrong answer {label}")


class _Choices:
    """The labels of a row and, if the dataset has them, their texts."""

    def __init__(self, labels: Sequence[str], texts: Sequence[str] = (), *, listed: bool = False):
        self.labels = tuple(labels)
        self.texts = tuple(_plain(text) for text in texts)
        self.listed = listed  # without labels of their own, so that a number is an index
        self._written = _patterns(self.labels)
        self._by_letter = {label.lower(): label for label in self.labels}

    @classmethod
    def read(cls, row: Any, gold: str) -> _Choices:
        if row is None:
            if gold.isdecimal():
                return cls([str(number) for number in range(1, 6 if int(gold[:9]) <= 5 else 11)])
            return cls(_LETTERS[: 5 if _bare(gold).upper() in tuple("ABCDE") else 10])
        if isinstance(row, Mapping) and {"label", "text"} <= set(row):
            return cls([str(label).strip() for label in row["label"]], [str(text) for text in row["text"]])
        if isinstance(row, list | tuple) and len(row) <= len(_LETTERS) and all(isinstance(item, str) for item in row):
            return cls(_LETTERS[: len(row)], row, listed=True)
        raise RewardError(
            f"choices must be {{'label': [...], 'text': [...]}} or a list of texts, got {shown(repr(row))}"
        )

    def gold(self, written: str) -> str | None:
        """The label that a gold means: "C", "c", "(c)", "C." or, among listed texts, the index 2."""
        if self.listed and written.isdecimal():
            return self.labels[int(written[:9])] if int(written[:9]) < len(self.labels) else None
        return written if written in self.labels else self._by_letter.get(_bare(written).lower())

    def chosen(self, text: str) -> tuple[set[str], Statement | None]:
        """The labels that the last statement of a choice names, and that statement; `None` without a statement."""
        found = [*statements(text), *self._phrases(text), *self._lines(text)]
        other = None  # a box that holds no choice; it counts if nothing else does
        for item in sorted(found, key=lambda item: item.start, reverse=True)[:STATEMENTS]:
            if item.kind == "phrase" and _DENIAL.match(item.content) and not self._labels_of(item.content):
                continue  # "the answer is not A"
            alone = self._written.alone.fullmatch(_unwrapped(item.content))
            labels = self.named(item.content) or self._labels_of(item.line)  # a choice's text may have two sentences
            if alone:
                labels |= self.named(item.line or item.content)  # "B. the text of another choice"
            if item.kind == "hashes" and not item.last_line and not alone:
                continue  # "#### A. The first choice" is a heading
            if labels or (item.kind != "phrase" and _looks_like_a_label(item.content, self.labels)):
                return labels, item
            # A sentence about the answer without a choice is skipped.
            other = other or (item if item.kind != "phrase" else None)
        return set(), other

    def named(self, statement: str) -> set[str]:
        """The labels that a statement names directly or by their texts."""
        content = _unwrapped(statement)
        body = _LEAD.sub("", content, count=1) if _LEAD.match(content) else content
        by_text = self._labels_of(content) | self._labels_of(body)
        if whole := self._written.alone.fullmatch(body):
            return {self._spelled(whole)} | by_text
        if by_text:
            return by_text
        if first := self._written.first.match(body):
            rest = body[first.end() :]
            named = {self._spelled(first)} | self._labels_of(rest)
            while joined := self._written.joined.match(rest):
                named.add(self._spelled(joined))
                rest = rest[joined.end() :]
            return named
        if (spaced := self._written.spaced.match(body)) and (by_text := self._labels_of(body[spaced.end() :])):
            return {self._spelled(spaced)} | by_text
        return {self._spelled(match) for match in self._written.bracketed.finditer(body)}

    def _phrases(self, text: str) -> Iterator[Statement]:
        """Phrases that `statements` does not cover: "the correct option is B", "(B) is correct"."""
        for match in _NAMES.finditer(text):
            yield Statement("phrase", match.start(), match[1])
        for pattern in (self._written.called_correct, self._written.concluded):
            for match in pattern.finditer(text):
                yield Statement("phrase", match.start(), self._spelled(match))

    def _lines(self, text: str) -> list[Statement]:
        """The lines that state a choice without other words."""
        bare: list[Statement] = []
        listed: dict[str, Statement] = {}
        start, end = 0, len(text.rstrip())
        for line in text.split("\n"):
            if not line:
                start += 1
                continue
            content = _unwrapped(line)
            first = self._written.first.match(content)
            item = Statement("phrase", start, content)
            if self._written.alone.fullmatch(content) or (
                start + len(line) >= end > start and self._labels_of(content)
            ):
                bare.append(item)
            elif titled := self._written.titled.fullmatch(content):
                listed[self._spelled(titled)] = item
            elif first and _is_listed(first) and (first["label"].isalpha() or self._labels_of(content[first.end() :])):
                listed[first["label"]] = item
            start += len(line) + 1
        return bare + (list(listed.values()) if len(listed) == 1 else [])

    def _labels_of(self, text: str) -> set[str]:
        """The labels with this text; capitals count only between texts that differ in nothing else ("WW", "Ww")."""
        plain = _plain(text)
        pairs = [pair for pair in zip(self.labels, self.texts, strict=False) if plain]
        exact = {label for label, item in pairs if item == plain}
        return exact or {label for label, item in pairs if item.lower() == plain.lower()}

    def _spelled(self, match: re.Match[str]) -> str:
        found = match["label"]
        return found if found in self.labels else self._by_letter[found.lower()]


class _Patterns(NamedTuple):
    """The ways to write a label; each pattern has a group `label`."""

    alone: re.Pattern[str]
    first: re.Pattern[str]
    spaced: re.Pattern[str]
    joined: re.Pattern[str]
    bracketed: re.Pattern[str]
    called_correct: re.Pattern[str]
    concluded: re.Pattern[str]
    titled: re.Pattern[str]


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> _Patterns:
    label = f"(?P<label>{'|'.join(re.escape(item) for item in sorted(labels, key=len, reverse=True))})"
    return _Patterns(
        alone=re.compile(rf"[(\[]?{label}[)\]]?[.:]?", re.IGNORECASE),
        first=re.compile(
            rf"(?P<open>\()?{label}(?(open)\))(?P<stop>[.):](?![0-9])\s*)?(?(open)|(?(stop)|{_AFTER_LABEL}))"
        ),
        spaced=re.compile(rf"{label}\s+"),
        joined=re.compile(rf"\s*(?:,|/|&|\band\b|\bor\b)\s*(?:(?:or|and|option)\s)*\(?{label}(?:[).]|{_AFTER_LABEL})"),
        bracketed=re.compile(rf"\({label}\)"),
        called_correct=re.compile(
            rf"(?<!\w)\(?{label}[\s*)]{{1,5}}is[\s*]{{1,5}}(?:(?:the|my)\s)?(?:most\s|final\s)?(?:correct|right|best|answer)\b"
        ),
        concluded=re.compile(
            rf"\b(?:(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?|[Ii]t(?: is|'s))[\s*]{{1,5}}(?:(?:it is|it's)\s)?"
            rf"(?:(?:option|choice)\s)?\(?{label}\)?[\s*]{{0,5}}(?:[.!]|$)",
            re.MULTILINE,
        ),
        titled=re.compile(rf"(?:option|choice|letter)\s{{1,3}}[(\[]?{label}[)\]]?[.:!]?", re.IGNORECASE),
    )


def _looks_like_a_label(text: str, labels: Sequence[str]) -> bool:
    """Whether a text is a letter, or a number where the labels are numbers, though perhaps none of the labels."""
    pattern = "[0-9]{1,2}" if labels and labels[0].isdecimal() else "[A-Za-z]"
    return re.fullmatch(pattern, _unwrapped(text).strip("()[].: ")) is not None


def _bare(gold: str) -> str:
    """A gold label without brackets, points and words around it."""
    return _LEAD.sub("", _unwrapped(gold), count=1).strip("()[].: ")


def _is_listed(first: re.Match[str]) -> bool:
    """Whether a line begins like an item of a list of choices: "B." or "(B)", but not "A:", which answers a "Q:"."""
    return bool(first["open"]) or (first["stop"] or ":")[0] in ".)"


def _unwrapped(text: str) -> str:
    r"""The text without `\text{...}`, the marks of a formula, and the emphasis and quotes around it."""
    return _FORMULA.sub("", _WRAPPER.sub(r" \1 ", text)).replace("**", "").strip(" \t\r*_`\"'")


def _plain(text: str) -> str:
    """A choice's text for comparison: single blanks, no leading article, no punctuation around it."""
    words = " ".join(_unwrapped(text).split()).strip(" .,;:!?()\"'*")
    return re.sub(r"^(?:a|an|the) (?=\w)", "", words, flags=re.IGNORECASE)
