r"""Whether a response's final answer equals the gold answer.

This module decides the cheap and certain cases: the same spelling, two numbers, words. The rest needs algebra
(`x^2 - 1` equals `(x-1)(x+1)`) and goes to math-verify in a process that can be killed.

Deliberate leniencies, most of them math-verify's: units and currencies are dropped, not compared; `50%` equals `50`
and `0.5`; decimals are compared to six places (0.333333 equals 1/3, 0.3333 does not); `x = 5` equals `5`; `28` equals
`28_9`; an unevaluated expression equals its value; variables are compared without regard to case. Two exact numbers
must be exactly equal (see `worker`).

`notation` spells, `numerals` and `words` read, `solution_sets` and `repeating` rewrite; `statements` finds answers.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .notation import clean, normal_form, shown, unwrapped
from .numerals import (
    ANSWER_LENGTH,
    Numeral,
    equal_numerals,
    last_numeral,
    numerals_in,
    read_numeral,
    with_explicit_product,
)
from .solution_sets import as_set
from .statements import Statement, ends_in_open_box, spoken, statements
from .words import letters, restricted, short_words, wording
from .workers import Outcome, WorkerPool

REMEMBERED = 10_000  # outcomes of algebra that a comparer keeps
GOLD_LENGTH = 500  # characters: a longer gold text without a marked answer is not an answer

_CLAUSE_END = re.compile(
    r";\s|[,:](?= (?!or\b|and\b|[a-zA-Z]\w{0,9} ?=)[a-zA-Z])| \("
    r"|(?:,|\s)\s?(?:because|since|which|where|as|so|when|if)\s"
    r"|,?\s(?:and|but)\s(?=(?:I|we|you|he|she|it|they|this|that|there|not)\b)"
)
_REASON_END = re.compile(r",?\s(?:because|since|where)\s")
_FORMULA = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?([0-9]{1,3})\}?")
_POWER_OF_TEN = re.compile(r"(?<![\w.])([0-9]{1,40}(?:\.[0-9]{1,40})?)[eE]([-+]?[0-9]{1,3})(?!\w)")  # 1.5e-9
_IS = re.compile(r"=|\b(?:is|are)\b")
_OPERATORS = re.compile(r"[\\^_*+!|<>]|\bnot\b")
# A letter right after a number, such as 5m: in a gold answer it may be a variable.
_VARIABLE = re.compile(r"[0-9}] ?[a-zA-Z](?![a-zA-Z.'+\-0-9]| [a-zA-Z])")


@dataclass(frozen=True)
class Gold:
    """A gold answer, read once for all responses to its query.

    Attributes:
        answer (`str`): the answer, extracted from its solution.
        numeral (`Numeral`, *optional*): the answer as a number, if it is one.
        wording (`str`, *optional*): the letters of the answer, if it consists of words.
        problem (`str`, *optional*): why no response can be compared with it; the other attributes are then unset.
    """

    answer: str = ""
    numeral: Numeral | None = None
    wording: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Judgement:
    """Whether a response's answer equals the gold answer (`None`: the gold answer is unusable), and why."""

    correct: bool | None
    reason: str


def is_gold(value: Any) -> bool:
    """Whether a value is of a kind that gold answers have: a text or a number."""
    return isinstance(value, str | numbers.Real | Decimal) and not isinstance(value, bool)


def read_gold(value: Any) -> Gold:
    r"""Read a gold answer: a number, an answer as text, or a whole solution that marks its answer.

    In a solution the last `\boxed{...}` counts, else the last `#### ...`, else the last "the answer is ...".
    """
    if not is_gold(value):
        return Gold(problem=f"gold answer of type {type(value).__name__} is neither a text nor a number")
    if not isinstance(value, str) and not math.isfinite(value):
        return Gold(problem=f"gold answer {value} is not finite")
    text = str(value).strip()
    found = {item.kind: item for item in statements(text)}
    marked = found.get("box") or found.get("hashes") or found.get("phrase")
    answer = _formula(marked) if marked else text
    if len(answer) > GOLD_LENGTH:
        return Gold(problem="gold answer marks no final answer")
    if not clean(answer):
        return Gold(problem="gold answer is empty")
    numeral = None if _VARIABLE.search(clean(answer)) else read_numeral(answer)
    return Gold(answer, numeral, wording(answer))


def final_answer(text: str, *, numeric: bool = False) -> str | None:
    r"""The final answer of a response: the *last* answer that it states.

    Statements are a closed `\boxed{...}`, `<answer>...</answer>`, `#### ...` (a number, or text on the last line:
    elsewhere `#### ...` is a Markdown heading), "the answer is ...", "answer: ..." or a line after a heading
    "# Answer". Thoughts (`<think>`, closed or not), a box that is never closed and a value that a sentence denies or
    bounds ("not 7", "at least 7") state nothing.

    Args:
        text (`str`): the response.
        numeric (`bool`): the gold answer is a number. The function then extracts the only number of a sentence, uses
            a sentence without exactly one number only if the response states nothing else, and falls back to the
            last number of a response that states nothing.

    Returns:
        `str`, *optional*: the answer as written, but in ASCII where a digit, dash or blank has variants; `None` if the
            response states no answer.
    """
    text = spoken(text)
    loose = None  # a sentence without exactly one number; used if the response states nothing else
    denied: set[Fraction] = set()  # "the answer is not 7"
    for statement in reversed(statements(text)):
        if statement.kind == "hashes" and not statement.last_line and read_numeral(statement.content) is None:
            continue
        if not numeric:
            return _formula(statement)
        answer = _number_of(statement)
        if statement.kind == "phrase" and restricted(answer):
            denied.update(item.value for item in map(read_numeral, numerals_in(answer)) if item)
            continue
        numeral = read_numeral(answer)
        if numeral is not None and numeral.value in denied:
            continue
        if statement.kind == "box" or numeral is not None:
            return answer
        if loose is None and re.search(r"[0-9\\\u03c0]", answer):
            loose = answer
    if loose or not numeric or ends_in_open_box(text):
        return loose
    return last_numeral(text, denied) or (text.strip() if read_numeral(text) else None)  # "five"


class AnswerComparer:
    """Compares final answers. Several threads may call it at once, also after a fork. Arguments as in `WorkerPool`."""

    def __init__(self, time_limit: float = 5.0, memory_limit: int = 2 << 30, workers: int | None = None):
        self.pool = WorkerPool(time_limit, memory_limit, workers)
        self._outcomes: dict[tuple[str, str], Outcome] = {}  # of earlier calls; the oldest are forgotten first

    def compare(self, golds: Sequence[Any], responses: Sequence[str]) -> list[Judgement]:
        """One judgement per response.

        Args:
            golds (`Sequence`): one per response: numbers, answers or whole solutions (see `read_gold`).
            responses (`Sequence[str]`): texts of any kind and length.

        Raises:
            RewardError: the workers cannot be started. A comparison that hangs or crashes gives a judgement, not an
                error.
        """
        judgements: list[Judgement] = []
        open_pairs: dict[tuple[str, str], list[int]] = {}
        for index, (value, response) in enumerate(zip(golds, responses, strict=True)):
            gold = read_gold(value)
            answer = None if gold.problem else final_answer(response, numeric=gold.numeral is not None)
            decided = _decide(gold, answer)
            if decided is None:
                open_pairs.setdefault((gold.answer, str(answer)), []).append(index)
            judgements.append(decided or _wrong(answer))
        outcomes = self._compare([(_for_algebra(gold), _for_algebra(answer)) for gold, answer in open_pairs])
        for (_, answer), indices, outcome in zip(open_pairs, open_pairs.values(), outcomes, strict=True):
            for index in indices:
                judgements[index] = _judgement_of(outcome, answer)
        return judgements

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """The outcomes of the algebra; those of earlier calls are remembered, but for crashes and timeouts."""
        known = {pair: self._outcomes[pair] for pair in pairs if pair in self._outcomes}
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        known |= zip(new, self.pool.compare(new), strict=True)
        decided = {pair: known[pair] for pair in new if known[pair] in ("equal", "different")}
        # One assignment, so that other threads see the old outcomes or the new ones.
        self._outcomes = dict(list({**self._outcomes, **decided}.items())[-REMEMBERED:])
        return [known[pair] for pair in pairs]

    def close(self) -> None:
        """End the worker processes. The next comparison starts new ones."""
        self.pool.close()


def _decide(gold: Gold, answer: str | None) -> Judgement | None:
    """The judgement if it needs no algebra, else `None`."""
    if gold.problem:
        return Judgement(None, gold.problem)
    if answer is None:
        return Judgement(False, "no answer")
    if len(answer) > ANSWER_LENGTH:
        return Judgement(False, f"answer too long: {len(answer)} characters")
    if normal_form(answer) == normal_form(gold.answer):
        return Judgement(True, "correct")
    if restricted(answer) != restricted(gold.answer):
        return _wrong(answer)
    numeral = read_numeral(answer) if gold.numeral else None
    if gold.numeral is not None and numeral is not None:
        return Judgement(True, "correct") if equal_numerals(gold.numeral, numeral) else _wrong(answer)
    if (same := _same_words(gold, answer)) is not None:
        return Judgement(True, "correct") if same else _wrong(answer)
    based = _BASED.fullmatch(normal_form(answer)), _BASED.fullmatch(normal_form(gold.answer))
    if based[0] and based[1]:  # math-verify would drop both bases
        return Judgement(True, "correct") if based[0].groups() == based[1].groups() else _wrong(answer)
    return None


def _same_words(gold: Gold, answer: str) -> bool | None:
    """Whether two answers in words are equal; `None` if one of them is a formula, or may be one."""
    if (verdict := letters(gold.answer)) in ("yes", "no", "true", "false"):  # a reason may follow
        return letters(re.split(r"[,.;:!]", unwrapped(clean(answer)), maxsplit=1)[0]) == verdict
    if gold.wording is not None:
        return letters(answer) == gold.wording
    if wording(answer) is not None:
        return re.fullmatch("[a-zA-Z]{2}[a-zA-Z ]*", gold.answer) is not None and letters(answer) == letters(
            gold.answer
        )
    if re.fullmatch("[a-zA-Z ]+", clean(answer)) and (short_words(gold.answer) or short_words(answer)):
        return letters(answer) == letters(gold.answer)
    return None


def _for_algebra(answer: str) -> str:
    """An answer in the notation that math-verify reads."""
    powers = _POWER_OF_TEN.sub(r"\1 \\cdot 10^{\2}", clean(answer))
    return with_explicit_product(as_set(powers))


def _judgement_of(outcome: Outcome, answer: str) -> Judgement:
    if outcome == "equal":
        return Judgement(True, "correct")
    return _wrong(answer) if outcome == "different" else Judgement(False, f"comparison {outcome}")


def _wrong(answer: str | None) -> Judgement:
    return Judgement(False, f"wrong answer {shown(answer or '')}")


def _formula(statement: Statement) -> str:
    """A statement's content; if it is a sentence with exactly one formula, the formula alone."""
    if statement.kind != "phrase":
        return statement.content
    content = _REASON_END.split(statement.content, maxsplit=1)[0]
    formula = _FORMULA.search(content)
    if (
        formula is None
        or restricted(content[: formula.end()])
        or re.search(r"[0-9$\\=+\-/*^]", content[: formula.start()] + content[formula.end() :])
    ):
        return content
    return formula[1] or formula[2]


def _number_of(statement: Statement) -> str:
    """The number in a statement, if it holds exactly one; else its whole content, for math-verify to read."""
    content = statement.content
    if statement.kind == "box" or len(content) > ANSWER_LENGTH or read_numeral(content) is not None:
        return content
    clause = _CLAUSE_END.split(clean(content), maxsplit=1)[0]
    result = _IS.split(clause)[-1].strip()
    if not re.search(r"[0-9]", result):
        result = clause
    if restricted(result):
        return result
    found = numerals_in(result)
    if read_numeral(result) is None and len(found) == 1 and not _OPERATORS.search(result.replace(found[0], "")):
        return found[0]
    return result
