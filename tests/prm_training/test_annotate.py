"""Math-Shepherd labels: their distribution against exact probabilities, and every saving by what was sampled."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import chain, product

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from scipy.stats import binom, chi2
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import PreTrainedTokenizerFast

from bstar_trl.engines import Sample, TransformersEngine
from bstar_trl.errors import ConfigurationError, DatasetError, RewardError
from bstar_trl.prm.steps import prompt_text, split_steps, step_spans
from bstar_trl.prm_training.annotate import Annotator, Recipe, annotate, round_sizes

LENGTH = 7
LETTERS = "ab="
PROMPT = "ab="


def make_small_tokenizer(letters=LETTERS) -> PreTrainedTokenizerFast:
    """EOS, which is PAD too, and a token per letter."""
    words = ["<eos>", *letters]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<eos>", eos_token="<eos>")


def make_small_model(seed=4):
    return make_model(seed, vocab_size=4, pad_token_id=0, eos_token_id=0, initializer_range=0.1)


class Recorder(TransformersEngine):
    """Keeps what it was asked and what it answered, call by call."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"batch_size": 2000, **options})
        self.calls = []

    def run(self, jobs):
        answers = [None] * len(jobs)
        for positions, sampled in super().run(jobs):
            for place, item in zip(positions, sampled, strict=True):
                answers[place] = item
            yield positions, sampled
        self.calls.append((list(jobs), answers))


def is_right(text: str) -> bool:
    return text.rsplit("=", 1)[-1].startswith("b")


def right(completions, **columns):
    """The verifier, as a reward function of TRL's kind."""
    return [float(is_right(text)) for text in completions]


def success_probabilities(model, temperature: float) -> dict[str, float]:
    """Of every text of at most `LENGTH` letters: how likely a right, finished response is once it stands there."""
    following = {}
    prompt = make_small_tokenizer()(PROMPT)["input_ids"]
    for length in range(LENGTH):
        texts = ["".join(letters) for letters in product(LETTERS, repeat=length)]
        tokens = torch.tensor([prompt + [1 + LETTERS.index(letter) for letter in text] for text in texts])
        with torch.no_grad():
            logits = model(tokens).logits[:, -1].double()
        following |= dict(zip(texts, torch.softmax(logits / temperature, -1).numpy(), strict=True))
    found = {"".join(letters): 0.0 for letters in product(LETTERS, repeat=LENGTH)}  # no room for EOS
    for length in reversed(range(LENGTH)):
        for text in map("".join, product(LETTERS, repeat=length)):
            end, *letters = following[text]
            found[text] = end * is_right(text)
            found[text] += sum(share * found[text + letter] for share, letter in zip(letters, LETTERS, strict=True))
    return found


def prefixes_of(text: str) -> list[str]:
    """What stands before the second step, the third, and so on."""
    return [text[: match.start()] for match in re.finditer("[^=]+", text)][1:]


def agrees(draws: list[tuple[float, int]], distribution) -> bool:
    """Pearson's test of outcomes 0, 1, ... in groups of like chance, against what is expected of each group."""
    statistic, freedom = 0.0, 0
    draws = sorted(draws, key=lambda draw: draw[0])
    assert len(draws) >= 400
    for group in np.array_split(np.arange(len(draws)), 6):
        chances, outcomes = zip(*(draws[place] for place in group), strict=True)
        expected = np.sum([distribution(chance) for chance in chances], axis=0)
        observed = np.bincount(outcomes, minlength=len(expected)).astype(float)
        often = expected >= 5
        # What is seldom counts together; the +1 keeps a nearly impossible outcome from deciding alone.
        expected = np.array([*expected[often], expected[~often].sum() + 1])
        observed = np.array([*observed[often], observed[~often].sum() + 1])
        statistic += ((observed - expected) ** 2 / expected).sum()
        freedom += often.sum() - bool(often.all())
    return chi2.sf(statistic, freedom) > 1e-3


def annotated(labels, queries=400, **options):
    """Rows, their solutions' texts, and the engine: one query, over and over, with other seeds."""
    engine = Recorder(make_small_model(), make_small_tokenizer())
    recipe = Recipe(
        **{
            "labels": labels,
            "solutions": 4,
            "separator": "=",
            "max_new_tokens": LENGTH,
            "group_size": queries,
            **options,
        }
    )
    rows = list(annotate(engine, [{"prompt": PROMPT}] * queries, right, recipe))
    jobs, solutions = engine.calls[0]
    texts = [engine.tokenizer.decode(item.token_ids, skip_special_tokens=True) for item in solutions]
    queries_of = [index // recipe.solutions for index in range(len(jobs))]
    # Without a finished step there is no row.
    kept = [
        (query, text, item.ended)
        for query, text, item in zip(queries_of, texts, solutions, strict=True)
        if len(re.findall("[^=]+", text)) > (not item.ended)
    ]
    assert [row["id"] for row in rows] == [str(query) for query, _, _ in kept]
    return rows, kept, engine


@pytest.mark.parametrize(("labels", "temperature"), [("hard", 1.0), ("soft", 1.3)])
def test_labels_are_distributed_as_the_plain_method_has_them(labels, temperature):
    """Eight completions of each step of each solution, each on its own: exact, by enumeration of all responses.

    Given how the solution ended, too: a solution must not vouch for its own steps.
    """
    success = success_probabilities(make_small_model(), temperature)
    rows, solutions, _ = annotated(labels, temperature=temperature, queries=1500, seed=1)
    outcomes_of, ends_right = defaultdict(set), set()
    for row, (query, text, ended) in zip(rows, solutions, strict=True):
        assert row["completions"] == re.findall("[^=]+", text)[: None if ended else -1]
        outcomes = row["labels"] if labels == "hard" else row["successes"]
        for prefix, outcome in zip(prefixes_of(text), outcomes, strict=False):
            outcomes_of[query, prefix].add(int(outcome))
            if ended and is_right(text):
                ends_right.add((query, prefix))
    assert all(len(outcomes) == 1 for outcomes in outcomes_of.values())  # common steps, one draw
    draws = {key: (success[key[1]], *outcomes) for key, outcomes in outcomes_of.items()}

    def distribution(chance):
        return [(1 - chance) ** 8, 1 - (1 - chance) ** 8] if labels == "hard" else binom.pmf(range(9), 8, chance)

    assert agrees(list(draws.values()), distribution)
    assert agrees([draws[key] for key in ends_right], distribution)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_common_steps_are_completed_once_and_hard_labels_stop_early(labels):
    rows, solutions, engine = annotated(labels, queries=120)
    prompt = engine.tokenizer(PROMPT)["input_ids"]
    asked = defaultdict(list)  # by the tokens that are continued: in how many calls, and what came
    for jobs, answers in engine.calls[1:]:
        for job, item in zip(jobs, answers, strict=True):
            begun = job.prompt_ids[len(prompt) :]
            assert job.prompt_ids[: len(prompt)] == prompt
            assert job.max_new_tokens == LENGTH - len(begun)
            text = engine.tokenizer.decode([*begun, *item.token_ids], skip_special_tokens=True)
            asked[engine.tokenizer.decode(begun)].append(item.ended and is_right(text))
    different = {(query, prefix) for query, text, _ in solutions for prefix in prefixes_of(text)}
    plain = sum(len(prefixes_of(text)) for _, text, _ in solutions)
    seeds = [job.seed for jobs, _ in engine.calls for job in jobs]
    assert len(set(seeds)) > 0.999 * len(seeds)  # 31 bits may meet by chance
    assert len(different) < plain
    sampled = sum(map(len, asked.values()))
    known = {}
    for row, (query, text, _) in zip(rows, solutions, strict=True):
        counted = zip(row["attempts"], row["successes"], strict=True)
        known |= {(query, prefix): counts for prefix, counts in zip(prefixes_of(text), counted, strict=False)}
    assert set(known) == different
    assert sampled == sum(attempts for attempts, _ in known.values())
    assert sum(map(sum, asked.values())) == sum(successes for _, successes in known.values())
    if labels == "soft":
        assert sampled == 8 * len(different)
    else:  # drawn in rounds of 1, 1, 2 and 4, until one is right
        assert {attempts for attempts, _ in known.values()} == {1, 2, 4, 8}
        assert all(attempts == 8 for attempts, successes in known.values() if not successes)
        assert all(successes <= max(1, attempts // 2) for attempts, successes in known.values())
        drawn = [attempts for attempts, _ in known.values()]
        rounds = [size * sum(item >= least for item in drawn) for size, least in ((1, 1), (1, 2), (2, 4), (4, 8))]
        assert [len(jobs) for jobs, _ in engine.calls[1:]] == rounds


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_rows_are_stepwise_supervision(labels):
    rows, solutions, _ = annotated(labels, queries=160)
    for row, (_, text, ended) in zip(rows, solutions, strict=True):
        assert row["prompt"] == PROMPT
        assert row["completions"] == re.findall("[^=]+", text)[: None if ended else -1]
        assert row["ended"] == ended
        assert row["correct"] == (ended and is_right(text))
        assert len(row["completions"]) == len(row["labels"]) == len(row["successes"]) == len(row["attempts"])
        shares = [right / tried for right, tried in zip(row["successes"], row["attempts"], strict=True)]
        assert row["labels"] == (shares if labels == "soft" else [share > 0 for share in shares])
        if ended:  # nothing is left to complete: the last step is as good as the answer
            assert (row["successes"][-1], row["attempts"][-1]) == (int(is_right(text)), 1)
    assert {row["ended"] for row in rows} == {True, False}
    assert {len(row["labels"]) for row in rows} >= {1, 2, 3}


def test_counts_add_up():
    engine = Recorder(make_small_model(), make_small_tokenizer())
    annotator = Annotator(engine, right, Recipe(solutions=4, separator="=", max_new_tokens=LENGTH, completions=5))
    first, second = (annotator.annotate([{"prompt": PROMPT}] * 30, place) for place in (0, 30))
    counts = first.counts + second.counts
    labels = [label for row in first.rows + second.rows for label in row["labels"]]
    assert counts.queries == 60
    assert counts.solutions + counts.without_steps == 240
    assert counts.solutions == len(first.rows + second.rows)
    assert counts.steps == len(labels)
    assert counts.right_steps == sum(label > 0 for label in labels)
    assert counts.naive == 5 * len(labels)
    assert counts.naive_open == 5 * (len(labels) - sum(row["ended"] for row in first.rows + second.rows))
    assert counts.completions == sum(len(jobs) for jobs, _ in (engine.calls[1], engine.calls[3]))
    # Other places, other seeds, of solutions and of completions.
    assert [row["completions"] for row in first.rows] != [row["completions"] for row in second.rows]
    seeds = [job.seed for jobs, _ in engine.calls for job in jobs]
    assert len(set(seeds)) == len(seeds)


def test_the_same_again_and_other_seeds():
    first, again, other = (annotated("hard", queries=20, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_groups_are_annotated_one_after_the_other():
    engine = Recorder(make_small_model(), make_small_tokenizer())
    recipe = Recipe(solutions=4, separator="=", max_new_tokens=LENGTH, group_size=6)
    seen = []

    def queries():
        for number in range(20):
            seen.append(number)
            yield {"prompt": PROMPT, "id": f"q{number}"}

    stream = annotate(engine, queries(), right, recipe)
    assert next(stream)["id"] == "q0"
    assert len(seen) == 6  # nothing is read that is not needed yet
    names = [row["id"] for row in stream]
    assert names == sorted(names, key=lambda name: int(name[1:]))
    assert [len(jobs) for jobs, _ in engine.calls[::2]] == [24, 24, 24, 8]


def test_verifiers_see_whole_responses_and_the_columns():
    seen = defaultdict(list)

    def verifier(prompts, completions, answer, completion_ids, **columns):
        for prompt, text, gold, tokens in zip(prompts, completions, answer, completion_ids, strict=True):
            seen[prompt, gold].append((text, tokens))
        return [float(text.endswith(gold)) for text, gold in zip(completions, answer, strict=True)]

    tokenizer = make_small_tokenizer()
    engine = Recorder(make_small_model(), tokenizer)
    rows = [{"prompt": "ab=", "answer": "a"}, {"prompt": "b=", "answer": "b"}]
    found = list(annotate(engine, rows, verifier, Recipe(separator="=", max_new_tokens=LENGTH)))
    assert set(seen) == {("ab=", "a"), ("b=", "b")}
    assert sum(map(len, seen.values())) == sum(len(jobs) for jobs, _ in engine.calls)
    for text, tokens in chain.from_iterable(seen.values()):
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
        assert len(tokens) <= LENGTH
    for row in found:
        if row["correct"]:
            assert row["ended"]
            assert row["completions"][-1].endswith("a" if row["prompt"] == "ab=" else "b") or row["labels"][-1]


def test_what_cannot_be_judged_is_left_out_and_counted():
    engine = Recorder(make_small_model(), make_small_tokenizer())

    def verifier(completions, answer, **columns):
        return [None if gold is None else 1.0 for gold in answer]

    rows = [{"prompt": PROMPT, "answer": gold} for gold in ("a", None, "b")]
    annotator = Annotator(engine, verifier, Recipe(separator="=", max_new_tokens=LENGTH))
    annotated = annotator.annotate(rows)
    assert {row["id"] for row in annotated.rows} == {"0", "2"}
    assert annotated.counts.unjudged == 1
    assert annotated.counts.queries == 3


def test_a_verifier_that_fails_is_an_error():
    engine = Recorder(make_small_model(), make_small_tokenizer())

    def broken(completions, **columns):
        return [float("nan")] * len(completions)

    with pytest.raises(RewardError, match="'broken' returned nan"):
        list(annotate(engine, [{"prompt": PROMPT}], broken, Recipe(max_new_tokens=LENGTH)))


def test_a_token_across_the_border_of_steps_is_taken_apart():
    tokenizer = make_small_tokenizer()
    tokenizer.add_tokens(["=b"])
    model = make_model(2, vocab_size=5, pad_token_id=0, eos_token_id=0)
    engine = Recorder(model, tokenizer)
    recipe = Recipe(separator="=", max_new_tokens=LENGTH, group_size=20)
    rows = list(annotate(engine, [{"prompt": PROMPT}] * 20, right, recipe))
    prompt = tokenizer(PROMPT)["input_ids"]
    begun = {tuple(job.prompt_ids[len(prompt) :]) for jobs, _ in engine.calls[1:] for job in jobs}
    texts = {tokenizer.decode(tokens) for tokens in begun}
    assert any(4 in item.token_ids for item in engine.calls[0][1])
    # Every prefix ends where the next step begins, and so does what is continued.
    assert all(text.endswith("=") for text in texts)
    solutions = [tokenizer.decode(item.token_ids, skip_special_tokens=True) for item in engine.calls[0][1]]
    assert texts == {prefix for text in solutions for prefix in prefixes_of(text)}
    assert any(4 in tokens for tokens in begun)  # as it was sampled, where it does not cross the end
    assert rows


def test_stop_strings_end_responses_and_are_no_part_of_them():
    engine = Recorder(make_model(), make_tokenizer(), stop=("3", "ab"))
    annotator = Annotator(engine, right, Recipe(separator="=", max_new_tokens=12, group_size=20))
    rows = annotator.annotate([{"prompt": "1+2="}] * 20).rows
    texts = [engine.tokenizer.decode(item.token_ids, skip_special_tokens=True) for item in engine.calls[0][1]]
    assert sum("3" in text or "ab" in text for text in texts) > 50
    written = ["=".join(row["completions"]) for row in rows]
    assert not any("3" in text or "ab" in text for text in written)
    cut = [re.split("3|ab", text)[0] for text in texts]
    ended = [text for text, item in zip(cut, engine.calls[0][1], strict=True) if item.ended and text.strip("= \n")]
    assert sum(row["ended"] for row in rows) == len(ended)


def test_completions_come_from_the_completer():
    engine = Recorder(make_small_model(), make_small_tokenizer())
    completer = Recorder(make_small_model(30), make_small_tokenizer())
    recipe = Recipe(separator="=", max_new_tokens=LENGTH)
    list(annotate(engine, [{"prompt": PROMPT}], right, recipe, completer=completer))
    assert [len(jobs) for jobs, _ in engine.calls] == [15]
    assert len(completer.calls) == 1
    other = Recorder(make_model(), make_tokenizer())
    with pytest.raises(ConfigurationError, match="same vocabulary"):
        list(annotate(engine, [{"prompt": PROMPT}], right, recipe, completer=other))


@pytest.mark.parametrize("form", ["text", "chat", "messages"])
def test_prompts_are_sent_as_text_or_through_the_chat_template(form):
    tokenizer = make_tokenizer()
    engine = Recorder(make_model(), tokenizer)
    prompt = [{"role": "user", "content": "1+2"}] if form == "messages" else "1+2"
    seen = []

    def verifier(prompts, completions, **columns):
        seen.extend(prompts)
        return [1.0] * len(completions)

    recipe = Recipe(max_new_tokens=12, chat=form == "chat")
    rows = list(annotate(engine, [{"prompt": prompt}], verifier, recipe))
    sent = tokenizer.decode(engine.calls[0][0][0].prompt_ids)
    assert sent == ("1+2" if form == "text" else "<unk>=1+2\na=")
    assert {row["prompt"] for row in rows} == {"1+2"}
    assert seen[0] == prompt


def test_prompts_that_cannot_be_sampled_from_are_named():
    engine = Recorder(make_model(), make_tokenizer())
    with pytest.raises(DatasetError, match="row 1 has none"):
        list(annotate(engine, [{"prompt": "1"}, {"prompt": ""}], right, Recipe(max_new_tokens=4)))
    with pytest.raises(DatasetError, match=r"row 1: a prompt of 250 tokens and 8 new ones do not fit the model's 256"):
        list(annotate(engine, [{"prompt": "1"}, {"prompt": "1" * 250}], right, Recipe(max_new_tokens=8)))
    assert engine.calls == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solutions": 0}, "solutions must be at least 1, got 0"),
        ({"completions": 0}, "completions must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"labels": "both"}, "'hard' or 'soft', got 'both'"),
        ({"temperature": 0.0}, "temperature must be greater than 0 and finite, got 0.0"),
        ({"temperature": float("nan")}, "greater than 0"),
        ({"separator": ""}, "separator must be a text"),
    ],
)
def test_recipes_that_cannot_work(wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        Recipe(**wrong)


def test_rounds_make_up_the_completions():
    for completions in range(1, 40):
        sizes = round_sizes(completions, early_stop=True)
        assert sum(sizes) == completions
        assert all(size <= max(1, sum(sizes[:place])) for place, size in enumerate(sizes))
        assert round_sizes(completions, early_stop=False) == [completions]


@pytest.mark.parametrize(
    ("response", "separator", "steps"),
    [
        ("one\ntwo\nthree", "\n", ["one", "two", "three"]),
        ("\none\n\n  \n two \n", "\n", ["one", " two "]),
        ("", "\n", []),
        ("\n\n", "\n", []),
        ("8+5=3", "=", ["8+5", "3"]),
        ("a\n\nb\nc", "\n\n", ["a", "b\nc"]),
    ],
)
def test_steps_stand_between_separators(response, separator, steps):
    assert split_steps(response, separator) == steps
    assert [response[start:end] for start, end in step_spans(response, separator)] == steps


def test_the_text_of_a_prompt():
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "1+2"}]
    assert prompt_text("1+2") == prompt_text(messages) == "1+2"


class Scripted:
    """Says what it was told to, the last of it over and over; sees its own new tokens alone, as vLLM does."""

    max_length = None

    def __init__(self, *answers: tuple[str, bool], stop=()):
        self.tokenizer = make_small_tokenizer()
        self.stop = stop
        self.answers = answers  # to each call: a text, and whether EOS ends it
        self.calls = 0

    def run(self, jobs):
        text, ended = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        tokens = self.tokenizer(text)["input_ids"] + [self.tokenizer.eos_token_id] * ended
        if jobs:
            yield list(range(len(jobs))), [Sample(tokens, ended) for _ in jobs]


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_a_stop_string_across_the_border_of_prefix_and_completion_ends_it(labels):
    seen = []

    def verifier(completions, **columns):
        seen.extend(completions)
        return [float(text == "a") for text in completions]

    engine = Scripted(("a=b", True), ("=ab", False), stop=("==",))
    recipe = Recipe(solutions=1, completions=4, labels=labels, separator="=", max_new_tokens=LENGTH)
    (row,) = annotate(engine, [{"prompt": PROMPT}], verifier, recipe)
    assert set(seen) == {"a=b", "a"}  # `a=` was begun, `=` came next
    assert row["completions"] == ["a", "b"]
    assert row["labels"] == [1.0, 0.0]


def test_a_query_whose_completions_cannot_be_judged_is_left_out():
    def verifier(completions, **columns):
        return [None if text == "a=a" else 1.0 for text in completions]

    engine = Scripted(("a=b", True), ("a", True))
    annotator = Annotator(engine, verifier, Recipe(solutions=2, separator="=", max_new_tokens=LENGTH))
    found = annotator.annotate([{"prompt": PROMPT}])
    assert found.rows == []
    assert (found.counts.unjudged, found.counts.solutions) == (1, 0)


@pytest.mark.parametrize("limits", [(256, 20), (20, 256), (None, 20), (20, None)])
def test_a_prompt_must_fit_both_engines(limits):
    engines = [Scripted(), Scripted()]
    for engine, limit in zip(engines, limits, strict=True):
        engine.max_length = limit
    recipe = Recipe(max_new_tokens=15)
    annotator = Annotator(engines[0], right, recipe, completer=engines[1])
    assert annotator.prompt_ids([{"prompt": "ab=ab"}]) == [engines[0].tokenizer("ab=ab")["input_ids"]]
    with pytest.raises(DatasetError, match="row 0: a prompt of 6 tokens and 15 new ones do not fit the model's 20"):
        annotator.prompt_ids([{"prompt": "ab=ab="}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": 12}, "row 0: a prompt must be a text or messages, got 12"),
        ({"prompt": 0}, "row 0: a prompt must be a text or messages, got 0"),
        ({"prompt": [1, 2]}, r"row 0: a prompt must be a text or messages, got \[1, 2\]"),
        ({"prompt": [{"role": "system", "content": "ab"}]}, "row 0: .*the user's last message"),
    ],
)
def test_prompts_of_another_kind_are_named(row, message):
    annotator = Annotator(Scripted(), right, Recipe(max_new_tokens=LENGTH))
    with pytest.raises(DatasetError, match=message):
        annotator.prompt_ids([row])


@pytest.mark.parametrize("chat", [True, False])
def test_a_chat_needs_a_template(chat):
    annotator = Annotator(Scripted(), right, Recipe(max_new_tokens=LENGTH, chat=chat))
    prompt = "ab" if chat else [{"role": "user", "content": "ab"}]
    with pytest.raises(ConfigurationError, match="needs a chat template, and this tokenizer has none"):
        annotator.prompt_ids([{"prompt": prompt}])


@pytest.mark.parametrize(("given", "kept"), [({"id": None}, None), ({"id": 3}, "3"), ({}, "0")])
def test_ids_are_kept(given, kept):
    engine = Scripted(("a", True))
    (row,) = annotate(engine, [{"prompt": PROMPT, **given}], right, Recipe(solutions=1, max_new_tokens=LENGTH))
    assert row["id"] == kept
