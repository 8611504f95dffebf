"""`MultipleChoice`: which label a response chooses, and when it chooses none."""

from __future__ import annotations

import pytest
from conftest import DATA, SHARED, read_rows

from bstar_trl.errors import DatasetError, RewardError
from bstar_trl.rewards import MultipleChoice, Score

PLANTS = {
    "label": ["A", "B", "C", "D"],
    "text": ["respiration", "photosynthesis", "A plant cell", "the force of gravity."],
}
COUNTS = {"label": ["1", "2", "3", "4"], "text": ["a comet", "a moon", "two moons", "4"]}


def judge(text: str, gold: object = "B", choices: object = PLANTS) -> Score:
    return MultipleChoice().score([""], [text], answer=[gold], choices=[choices])[0]


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "**B**",
        "B) photosynthesis",
        "B. photosynthesis",
        "B. photosynthesis\n\nIt needs light.",
        "B\nBecause A is wrong.",
        r"\boxed{B}",
        r"$\boxed{\textbf{(B)}}$",
        r"\boxed{\text{B. photosynthesis}}",
        r"\boxed{photosynthesis}",
        "<answer>B</answer>",
        "#### B",
        "#### (B)",
        "The answer is B",
        "The answer is (B).",
        "The correct answer is: **B**.",
        "the answer is most likely B, not A.",
        "The answer is B because A plant needs light.",
        "The answer is B photosynthesis.",
        "The answer is photosynthesis (B).",
        "The answer is Photosynthesis.",
        "Answer: B",
        "**Answer:** B",
        "**Final Answer**\n\nB",
        "Answer: B. photosynthesis",
        "The correct option is B.",
        "Option B is correct.",
        "(A) is wrong. (B) is the best one.\n(B) is correct.",
        "Light is needed.\nPhotosynthesis.",
        "The answer is A. No, the answer is B.",
        "A. respiration\nB. photosynthesis\nC. A plant cell\nThe answer is B.",
        r"\boxed{A}, or rather \boxed{B}",
    ],
)
def test_the_chosen_label_is_found(text):
    assert judge(text) == Score(1.0, "correct")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C", "wrong answer C"),
        ("The answer is B. On second thought the answer is (C).", "wrong answer C"),
        (r"The answer is B. \boxed{A}", "wrong answer A"),
        ("The answer is a plant cell", "wrong answer C"),
        ("the answer is the force of gravity", "wrong answer D"),
        ("", "no answer"),
        ("A plant needs light", "no answer"),
        ("The answer is A plant needs photosynthesis", "no answer"),
        ("It is about photosynthesis and B vitamins.", "no answer"),
        ("The answer is not A.", "no answer"),
        ("The answer is clear.", "no answer"),
        ("A: it is photosynthesis, I think", "no answer"),
        ("A. respiration\nB. photosynthesis\nC. A plant cell\nD. the force of gravity", "no answer"),
        ("#### A. respiration\nNo.\n#### B. photosynthesis\nYes.", "no answer"),
        ("The answer is A and B.", "ambiguous answer A, B"),
        ("The answer is either A or B.", "ambiguous answer A, B"),
        ("Answer: A, B, C, D", "ambiguous answer A, B, C, D"),
        ("The answer is B. respiration", "ambiguous answer A, B"),
        (r"\boxed{42}", "no choice in '42'"),
        ("\\boxed{\ud800}", "no choice in '?'"),
    ],
)
def test_what_is_no_right_choice_says_why(text, reason):
    assert judge(text) == Score(0.0, reason)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 1.0),
        ("Answer: 3", 1.0),
        ("(3)", 1.0),
        (r"\boxed{3}", 1.0),
        ("3. two moons", 1.0),
        ("The answer is two moons.", 1.0),
        ("The answer is 3 because of the tides.", 1.0),
        ("The answer is 3 planets", 0.0),
        ("The answer is 3.5", 0.0),
        ("1. Read it.\n2. Think.\n3. Decide.", 0.0),
        ("3. Decide.\nI cannot.", 0.0),
        ("Answer: C", 0.0),
    ],
)
def test_labels_may_be_digits(text, value):
    assert judge(text, "3", COUNTS).value == value
    assert judge(text, 3, COUNTS).value == value


def test_a_digit_that_is_a_label_and_another_choices_text_is_ambiguous():
    choices = {"label": ["1", "2"], "text": ["2", "1"]}
    assert judge("Answer: 1", "1", choices) == Score(0.0, "ambiguous answer 1, 2")


def test_two_choices_with_one_text_cannot_be_told_apart_by_it():
    genes = {"label": ["A", "B"], "text": ["WW or Ww", "WW or ww"]}
    assert judge("The answer is ww or ww.", "A", genes) == Score(0.0, "ambiguous answer A, B")
    assert judge("The answer is WW or Ww.", "A", genes).value == 1.0  # but capitals may tell them apart
    assert judge("A. WW or Ww", "A", genes).value == 1.0


def test_choices_are_optional():
    reward = MultipleChoice()
    texts = ["Answer: B", "E", "B. photosynthesis", "The answer is photosynthesis."]
    assert reward([""] * 4, texts, answer=["B", "E", "B", "B"]) == [1.0, 1.0, 1.0, 0.0]
    assert reward([""] * 2, ["Answer: 5", "Answer: B"], answer=["5", "2"]) == [1.0, 0.0]


@pytest.mark.parametrize("gold", ["F", "", None, "photosynthesis", 2.0])
def test_a_gold_that_is_no_label_cannot_be_judged_by(gold):
    score = judge("B", gold)
    assert score.value is None
    assert "not one of the labels A, B, C, D" in score.reason


def test_errors_name_the_column():
    with pytest.raises(DatasetError, match="'label_column'"):
        MultipleChoice("label_column")([""], ["B"], answer=["B"])
    with pytest.raises(RewardError, match="choices must be"):
        judge("B", "B", {"A": "respiration", "B": "photosynthesis"})
    with pytest.raises(RewardError, match="list of texts"):
        judge("B", "B", "respiration, photosynthesis")


TEN = [f"the {word}" for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")]
PLANETS = ["Mars", "the Moon", "Venus", "a comet"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Option B", 1.0),
        ("**Option (B)**", 1.0),
        ("I choose B.", 1.0),
        ("I would go with option B.", 1.0),
        ("Therefore, B.", 1.0),
        ("It's B.", 1.0),
        ("B is my final answer", 1.0),
        ("The best choice would be B", 1.0),
        ('{"answer": "B"}', 1.0),
        ('{"why": "A is too far", "answer": "B"}', 1.0),
        ("{'answer': 'B'}", 1.0),
        ('```json\n{"choice": "B"}\n```', 1.0),
        ('{"answer": "photosynthesis"}', 1.0),
        ('{"answer": "C"}', 0.0),
        ("**Answer: B**\n\nCheck: the energy is \\boxed{13.6} eV.", 1.0),
        ("Answer: B\n\n\\boxed{E = \\frac{1}{2}mv^2}", 1.0),
        ("Answer: B\n\\boxed{C}", 0.0),
        ("Answer: B\n\\boxed{F}", 0.0),  # a label, though no choice has it
        ("The answer is not A but B.", 1.0),
        ("The answer is not B.", 0.0),
        ("B is not correct.", 0.0),
        ("So B is wrong.", 0.0),
        ("Option A\nToo far.\nOption B\nNear.", 0.0),  # headings
        ("<think>Answer: B", 0.0),
        ("<think>Answer: A</think>Answer: B", 1.0),
        ("<think>Answer: B</think>", 0.0),
        ("Answer: B<|im_end|>", 1.0),
        ("Ans: B", 1.0),
        ("\u7b54\u6848\uff1a\uff22", 1.0),
        ("\uff22", 1.0),
    ],
)
def test_more_ways_to_choose(text, value):
    assert judge(text).value == value


@pytest.mark.parametrize("gold", ["b", "(b)", "b)", "(B)", "B.", "[B]", "**B**", r"\boxed{B}", "Option B"])
def test_a_gold_label_may_be_written_in_other_ways(gold):
    assert [judge(text, gold).value for text in ("Answer: B", "(b)", "Answer: C")] == [1.0, 1.0, 0.0]
    assert MultipleChoice()(["", ""], ["Answer: B", "Answer: C"], answer=[gold] * 2) == [1.0, 0.0]


def test_labels_may_be_lower_case():
    choices = {"label": ["a", "b"], "text": ["respiration", "photosynthesis"]}
    assert [judge(text, "b", choices).value for text in ("b", "Answer: B", "a")] == [1.0, 1.0, 0.0]
    assert judge("Answer: B", "B", choices).value == 1.0


@pytest.mark.parametrize("gold", [2, "2", "C", "(c)"])
def test_a_list_of_texts_has_letters_for_labels_and_numbers_for_indices(gold):
    texts = ["The answer is (C).", "Venus", "B", "Answer: 2", "2"]
    assert [judge(text, gold, PLANETS).value for text in texts] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_an_index_among_numbers_is_still_an_index():
    assert [judge(text, 2, ["1", "2", "3", "4"]).value for text in ("C", "Answer: 3", "B", "2")] == [
        1.0,
        1.0,
        0.0,
        0.0,
    ]
    assert judge("A", 0, PLANETS).value == 1.0
    assert judge("A", 4, PLANETS).value is None


def test_there_may_be_ten_choices():
    assert [judge(text, "J", TEN).value for text in ("The answer is (J).", "the ten", "I", "I think so.")] == [
        1,
        1,
        0,
        0,
    ]
    assert judge("Answer: J", 9, TEN).value == 1.0
    assert MultipleChoice()([""] * 3, ["Answer: J", "I", "Answer: 7"], answer=["J", "J", "7"]) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "A " * 50_000,
        "Option A\n" * 10_000,
        '{"answer": ' * 9_000,
        "I choose " * 11_000,
        "(A) and " * 12_000,
        "\n" * 100_000,
        "The answer is " * 7_000,
    ],
)
def test_long_responses_are_only_long(text):
    assert judge(text).value == 0.0


@pytest.mark.parametrize("folder", [DATA, SHARED / "data"], ids=["few", "all"])
@pytest.mark.parametrize("name", ["arc_challenge_train", "arc_challenge_test"])
def test_arc_rows_are_read_as_they_are(name, folder):
    rows = read_rows(folder / f"{name}.jsonl")
    assert {len(row["choices"]["label"]) for row in rows} >= {3, 4}
    assert {row["choices"]["label"][0] for row in rows} == {"A", "1"}
    golds, choices = [row["answer"] for row in rows], [row["choices"] for row in rows]
    texts = [row["choices"]["text"][row["choices"]["label"].index(row["answer"])] for row in rows]
    others = [next(label for label in row["choices"]["label"] if label != row["answer"]) for row in rows]
    prompts = [row["prompt"] for row in rows]

    def right(completions: list[str]) -> int:
        return sum(value or 0.0 for value in MultipleChoice()(prompts, completions, answer=golds, choices=choices))

    written = list(zip(golds, texts, strict=True))
    assert right([f"The answer is ({label})." for label in golds]) == len(rows)
    assert right([f"{label}. {text}" for label, text in written]) == len(rows)
    assert right([rf"Thus \boxed{{{label}}}" for label in golds]) == len(rows)
    assert right([f"I think so.\nThe answer is {text}" for text in texts]) == len(rows)
    assert right([f"I think so.\n{text.upper()}" for text in texts]) >= len(rows) - 2  # two differ in capitals only
    assert right([f"The answer is ({label})." for label in others]) == 0
    assert right(prompts) == 0  # all choices repeated choose none
    assert right(["A thing is a thing."] * len(rows)) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"The answer is \(C\).", 1.0),
        (r"Answer: \(\text{C}\)", 1.0),
        (r"\[\boxed{C}\]", 1.0),
        (r"\(B\)", 0.0),
        ("The letter is C.", 1.0),
        ("Selected: C", 1.0),
        ("Correct: C", 1.0),
        ("That is correct: it has carbon.", 0.0),
    ],
)
def test_formula_marks_and_other_names(text, value):
    (score,) = MultipleChoice().score([""], [text], answer=["C"])
    assert score.value == value
