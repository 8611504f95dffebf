"""Final answers: what is found in a response, what is a number, what equals what."""

from __future__ import annotations

import math
import random
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from conftest import DATA, SHARED, read_rows

from bstar_trl.answers import AnswerComparer, final_answer, read_gold
from bstar_trl.answers.notation import normal_form
from bstar_trl.answers.numerals import equal_numerals, last_numeral, read_numeral
from bstar_trl.answers.statements import statements
from bstar_trl.answers.words import wording

NAMES = ("gsm8k_train", "gsm8k_test", "math_train", "math500")
COUNTS = (2000, 200, 1500, 200)


def make_sets(figures, few, slow=()):
    """A path and a figure for each large file and, with the figure `few`, for its thirty rows in the tests."""
    small = [pytest.param(DATA / f"{name}.jsonl", few, id=f"few of {name}") for name in NAMES]
    large = [
        pytest.param(
            SHARED / "data" / f"{name}.jsonl", figure, id=name, marks=[pytest.mark.slow] if name in slow else []
        )
        for name, figure in zip(NAMES, figures, strict=True)
    ]
    return small + large


@pytest.fixture(scope="module")
def comparer():
    comparer = AnswerComparer(time_limit=30)
    yield comparer
    comparer.close()


# --- what a response states ---


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{42}$.", "42"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\fbox{5}", "5"),
        (r"\boxed 8", "8"),
        (r"\\boxed{9}", "9"),
        ("48 / 2 = 24\n#### 24", "24"),
        ("The answer is 12.", "12"),
        ("the final answer is: **12**", "12"),
        ("**Answer:** 12 apples\nBye.", "12 apples"),
        ("# Answer\n\n12", "12"),
        ("The answer to the first question is 3.5.", "3.5"),
        ("The answer is\n$$\n\\frac{1}{2}\n$$\nas claimed.", r"\frac{1}{2}"),
        ("<think>4?</think><answer> 12 </answer>", "12"),
        ("it is on Monday", None),
        ("", None),
        (r"\boxed{", None),
        (r"\boxed{}", None),
        (r"The answer is correct.", None),
    ],
)
def test_an_explicit_answer_is_found(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} \boxed{2} \boxed{3}", "3"),
        (r"\boxed{1}. Wait. The answer is 2.", "2"),
        (r"The answer is 2. So \boxed{1}", "1"),
        ("The answer is 1\n#### 2", "2"),
        ("#### 2\nNext question.\nThe answer is 1", "1"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        (r"\boxed{3} and \boxed{4", "3"),  # never closed
        ("".join(rf"\boxed{{{number}}}" for number in range(500)), "499"),
    ],
)
def test_the_last_statement_counts(text, answer):
    assert final_answer(text) == answer
    assert final_answer(text, numeric=True) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is that she has 18 apples left.", "18"),
        ("The answer is 3 * 6 = 18.", "18"),
        ("The answer is 18, which is 3 more than 15.", "18"),
        ("The answer is 18 because 3 * 6 is 18.", "18"),
        ("The answer is obvious: 5 + 6 = 11", "11"),
        (r"so \boxed{15}. The answer is unique.", "15"),
        (r"so \boxed{165}. This answer equals $\binom{11}{3}$. Is this a coincidence?", "165"),
        ("#### 2. Compute the total\n5 + 6 = 11 in all.", "11"),  # a heading
        ("#### Step 4\nSo 11.", "11"),
        ("She has 5 + 6 = 11 apples.", "11"),
        ("It costs $1,234.50.", "1,234.50"),
        ("That leaves 3/4 of it, the 2nd time.", "3/4"),
        (r"the value of $x^2$ is $\frac{3}{4}$", r"\frac{3}{4}"),
        ("pages 10-15", "15"),
        ("x = -7", "-7"),
        ("no number at all", None),
    ],
)
def test_numbers_are_taken_out_of_sentences(text, answer):
    assert final_answer(text, numeric=True) == answer


def test_without_a_numeric_gold_the_last_number_is_no_answer():
    assert final_answer("It is 11.") is None


def test_a_heading_is_no_statement_but_the_last_line_is():
    assert final_answer("#### Monday") == "Monday"
    assert final_answer("#### Step 1\nSo it goes.") is None


def test_nested_boxes_state_one_answer():
    assert [item.content for item in statements(r"\boxed{x = \boxed{5}}")] == ["5"]


# --- numbers ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("-72", -72),
        ("\u22125", -5),
        ("18.", 18),
        ("18.00", 18),
        ("$1,200.00", 1200),
        ("-$5", -5),
        (r"\$ 54.60", Fraction(273, 5)),
        (r"1,\!296,\!540", 1296540),
        ("1{,}008{,}016", 1008016),
        (".175", Fraction(7, 40)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac12", Fraction(-1, 2)),
        (r"\dfrac{-11}{850}", Fraction(-11, 850)),
        (r"\frac {40}7", Fraction(40, 7)),
        (r"2\frac{1}{4}", Fraction(9, 4)),
        ("2 1/4", Fraction(9, 4)),
        ("2\u00bd", Fraction(5, 2)),
        ("1.5e3", 1500),
        (r"1.5 \times 10^{-3}", Fraction(3, 2000)),
        ("x = 12", 12),
        ("18 dollars per day", 18),
        ("5km", 5),
        ("5 million people", 5_000_000),
        (r"137.5\text{ degrees}", Fraction(275, 2)),
        (r"120^\circ", 120),
        ("25 \u00b0C", 25),
        (r"2400 \mbox{ cm}^2", 2400),
        ("**42**", 42),
        (r"$\left(7\right)$", None),
        ("5x", None),
        ("5 x", None),
        ("5 and a half", None),
        (r"2\pi", None),
        ("2 pi", None),
        ("2,16", None),
        ("1, 2", None),
        ("28_9", None),
        ("3:5", None),
        ("8 p.m.", None),
        ("1/0", None),
        ("9" * 5000, None),
        ("1e999999999", None),
        ("", None),
    ],
)
def test_numbers_are_read_exactly(text, value):
    numeral = read_numeral(text)
    assert numeral is None if value is None else numeral is not None and numeral.value == value


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("0.5", "1/2", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.3333", False),
        ("2/3", "0.666667", True),
        ("2/3", "0.66", False),
        ("50", "50%", True),
        ("50%", "0.5", True),
        ("50", "0.5", False),
        ("5", "500%", True),
        ("12345678", "12345679", False),
        ("0.0000001", "0.0000002", False),
        ("0.3", "0.30000000000000004", True),
    ],
)
def test_rounding_and_percent(one, other, equal):
    assert equal_numerals(read_numeral(one), read_numeral(other)) is equal
    assert equal_numerals(read_numeral(other), read_numeral(one)) is equal


def test_running_text_has_no_exponents_indices_or_ordinals_for_numbers():
    assert last_numeral("7, then x^2, a_{3}, y^{4} and the 5th, CO2") == "7"


def test_words_are_told_from_formulas():
    assert wording(r"\text{Monday}") == "monday"
    assert wording("not enough information") == "notenoughinformation"
    assert wording(r"8\!:\!34 \text{ p.m.}") == "8:34pm"
    assert [wording(text) for text in ("x", "xy", "2k", r"\pi", r"5\text{ cm}", "a + b")] == [None] * 6


def test_normal_form_keeps_what_differs_apart():
    assert normal_form("2 1/4") != normal_form("21/4")
    assert normal_form(r"\left( 1, 2 \right)") == normal_form("(1,2)")
    assert normal_form(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}") == r"\begin{pmatrix}1\\2\end{pmatrix}"


# --- golds ---


def test_a_gold_may_be_an_answer_or_a_solution():
    assert read_gold("72").answer == "72"
    assert read_gold("48 + 24 = <<48+24=72>>72\n#### 72").answer == "72"
    assert read_gold(r"We find $\boxed{(-2, 23)}$ and $\boxed{(0, 1)}$. The answer is unique.").answer == "(0, 1)"
    assert read_gold("We add them.\nThe answer is 5.").answer == "5"
    assert [read_gold(value).numeral.value for value in (18, 18.5, np.int64(3), np.float32(0.5), Decimal("1.5"))] == [
        18, 18.5, 3, 0.5, 1.5,
    ]  # fmt: skip


@pytest.mark.parametrize("gold", [None, "", "  ", "$$", math.nan, math.inf, True, ["2"], "a long proof " * 50])
def test_a_gold_that_cannot_be_judged_by_is_no_zero(comparer, gold):
    verdict = comparer.compare([gold], [r"\boxed{2}"])[0]
    assert verdict.correct is None
    assert "gold" in verdict.reason


# --- comparison ---


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [
        ("72", "#### 72.0", True),
        (72, "She sold 72 clips.", True),
        ("72", "She sold 72 clips in 2 months.", False),  # somewhere is not enough
        ("72", r"72, but no: \boxed{71}", False),
        ("72", r"\boxed{70}, \boxed{71}, \boxed{72}, \boxed{73}", False),
        ("72", r"\boxed{70, 71, 72, 73}", False),
        ("72", "The answer is 71 or 72.", False),
        ("72", "The answer is seventy-two.", True),
        ("72", "The answer is 72, 73.", False),
        ("72", "The answer is (72, 73).", False),
        ("72", "The answer is 72, or 73.", False),
        ("72", "The answer is 72, the sum.", True),
        (r"\frac{1}{2}", "#### 0.5", True),
        (r"\sqrt{2}", r"\boxed{\frac{2}{\sqrt{2}}}", True),
        (r"\sqrt{3}", r"\boxed{\u221a3}".replace(r"\u221a", "\u221a"), True),
        ("x^2 - 1", r"\boxed{(x-1)(x+1)}", True),
        ("x^2 - 1", r"\boxed{(x-1)^2}", False),
        (r"\text{Monday}", "The answer is monday.", True),
        (r"\text{Monday}", "The answer is Sunday.", False),
        (r"\text{Monday}", "It is Monday.", False),  # words need a statement
        (r"\text{(B)}", r"\boxed{B}", True),
        ("\u043f\u044f\u0442\u044c", "The answer is \u041f\u044f\u0442\u044c.", True),
        (r"\text{" + "\u043f\u044f\u0442\u044c}", r"\boxed{" + "\u0434\u0432\u0430}", False),
        (r"\text{---}", r"\boxed{!}", False),
        (r"\text{even}", r"\boxed{veen}", False),  # to math-verify a product of letters
        (r"8\!:\!34 \text{ p.m.}", "The answer is 8:34 p.m.", True),
        (r"8\!:\!34 \text{ p.m.}", r"\boxed{8:34 \text{ a.m.}}", False),
        ("(1, 2)", r"\boxed{(1,2)}", True),
        ("(1, 2)", r"\boxed{(2,1)}", False),
        ("(1, 2)", r"\boxed{[1,2]}", False),
        ("1, 2", r"\boxed{2 \text{ and } 1}", True),
        (r"(-\infty, 0]", r"\boxed{(-\infty, 0)}", False),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{bmatrix} 1 \\ 2 \end{bmatrix}}", True),
        ("x = 5", r"\boxed{5}", True),
        ("y = 2x + 1", r"\boxed{2x + 1}", True),
        ("28_9", r"\boxed{28_{9}}", True),
        ("28_9", r"\boxed{28_8}", False),
        (r"\frac{1}{2^{100}}", r"\boxed{\frac{1}{2^{101}}}", False),  # equal to fifteen digits
        ("5", r"\boxed{\frac{0}{0}}", False),
        ("5", r"\boxed{x}", False),
        ("5", "", False),
    ],
)
def test_answers_compare(comparer, gold, response, correct):
    assert comparer.compare([gold], [response])[0].correct is correct


def test_reasons_say_what_was_read(comparer):
    texts = ["#### 72", "#### 41", "nothing", r"\boxed{x + \ud800}".replace(r"\ud800", "\ud800"), "#### 1\0"]
    reasons = [verdict.reason for verdict in comparer.compare(["72"] * 5, texts)]
    assert reasons == ["correct", "wrong answer 41", "no answer", "wrong answer x + ?", "wrong answer 1"]
    long = comparer.compare(["x"], [r"\boxed{" + "y + " * 100 + "y}"])[0].reason
    assert len(long) < 80


def test_golds_and_responses_must_be_as_many(comparer):
    with pytest.raises(ValueError, match="zip"):
        comparer.compare(["1", "2"], ["1"])


HOSTILE = {
    "open boxes": r"\boxed{" * 14_000,
    "deep boxes": r"\boxed{" * 12_000 + "5" + "}" * 12_000,
    "braces": "{" * 100_000,
    "backslashes": "\\" * 100_000,
    "digits": "9" * 100_000,
    "answers": "the answer is " * 7_000,
    "hashes": "#### " * 20_000,
    "tags": "<answer>x" * 10_000,
    "dollars": "the answer is " + "$" * 100_000,
    "brackets": "the answer is " + "(" * 50_000 + "1" + ")" * 50_000,
    "fractions": r"\frac{1}{" * 10_000,
    "surrogates": "\\boxed{\ud800\udfff}",
    "nulls": "\\boxed{\0}",
    "exponent": "#### 1e999999999",
    "protocol": '\\boxed{"]\n["}',
    "open thoughts": "<think>" * 15_000,
    "denials": "not 7 " * 16_000,
    "denied statements": "the answer is not 7. " * 5_000,
    "bounds": "at least " * 11_000,
    "numbers": "9 " * 50_000,
    "number on a line": "#### " + "9 " * 50_000,
    "products": "x**2" * 25_000,
    "stars": "** a" * 25_000,
    "groups": "9,999" * 20_000,
    "repeating": "0.(3)" * 20_000,
    "ellipses": "0.33..." * 14_000,
    "dotted": r"0.\dot{3}1" * 10_000,
    "functions": "sin(" * 25_000,
    "angles": r"\sin 9^\circ " * 7_000,
    "roots": "\u221a(" * 50_000,
    "superscripts": "\u00b2" * 100_000,
    "full width": "\uff19" * 100_000,
    "thin spaces": "1\u2009" * 50_000,
    "unions": "the answer is " + "x<3 or " * 14_000,
    "commands": r"\boxed{\input{/etc/passwd}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_breaks_nothing(comparer, name):
    verdicts = comparer.compare([17, r"\text{Monday}"], [HOSTILE[name]] * 2)
    for verdict in verdicts:
        assert verdict.correct is False
        assert "\n" not in verdict.reason
        assert verdict.reason.encode()  # no lone surrogates
    assert comparer.compare(["x+1"], [r"\boxed{1+x}"])[0].correct


# --- real rows ---


def test_reference_solutions_of_every_kind_are_right(comparer):
    rows = read_rows(DATA / "answers.jsonl")
    solutions = [row["solution"] for row in rows]
    for golds in ([row["answer"] for row in rows], solutions):
        verdicts = comparer.compare(golds, solutions)
        assert [row["id"] for row, verdict in zip(rows, verdicts, strict=True) if not verdict.correct] == []
    for shift in range(1, len(rows)):
        verdicts = comparer.compare([row["answer"] for row in rows], solutions[shift:] + solutions[:shift])
        assert not any(verdict.correct for verdict in verdicts)


@pytest.mark.parametrize(("path", "count"), make_sets(COUNTS, few=30))
def test_reference_solutions_are_right(comparer, path, count):
    rows = read_rows(path)
    assert len(rows) == count
    solutions = [row["solution"] for row in rows]
    for golds in ([row["answer"] for row in rows], solutions):
        verdicts = comparer.compare(golds, solutions)
        assert [row["id"] for row, verdict in zip(rows, verdicts, strict=True) if not verdict.correct] == []


def plainly(answer: str) -> str | float:
    """An answer as a number or a bare string; shares nothing with the package."""
    text = re.sub(r"\\(?:left|right|!|\$|text|mbox)|\^\\circ|[\s${}]", "", answer.replace("dfrac", "frac"))
    if match := re.fullmatch(r"(-?)\\frac(\d)(\d)|(-?)\\frac\{(\d+)\}\{(\d+)\}", answer.replace("dfrac", "frac")):
        sign, upper, lower = (item for item in match.groups() if item is not None)
        return (-1 if sign else 1) * int(upper) / int(lower)
    number = re.match(r"(?:[a-z]=)?(-?[\d,]*\.?\d+)(?:[a-z. ]*|\\?%)$", text)
    return float(number[1].replace(",", "")) if number else text


@pytest.mark.parametrize(("path", "shifts"), make_sets((3, 3, 1, 2), few=4, slow=["math_train"]))
def test_another_rows_solution_is_wrong_unless_the_answers_are_equal(comparer, path, shifts):
    rows = read_rows(path)
    answers, solutions = [row["answer"] for row in rows], [row["solution"] for row in rows]
    for shift in random.Random(7).sample(range(1, len(rows)), shifts):
        others = answers[shift:] + answers[:shift]
        verdicts = comparer.compare(answers, solutions[shift:] + solutions[:shift])
        accepted = [pair for *pair, verdict in zip(answers, others, verdicts, strict=True) if verdict.correct]
        assert [pair for pair in accepted if plainly(pair[0]) != plainly(pair[1])] == []
        equal = sum(plainly(one) == plainly(other) for one, other in zip(answers, others, strict=True))
        assert len(accepted) == equal  # and no equal answer was refused
