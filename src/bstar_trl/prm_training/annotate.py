"""Step labels without human annotators, by the method of Math-Shepherd (Wang et al. 2024; B-STaR paper, appendix A.1).

The engine samples solutions for every query and, from the end of every step, several completions. A step's *hard*
label says whether any of its completions is right, its *soft* label is the share of right ones.

Three savings leave the distribution of a label, given its solution, as in the plain method:

- Solutions of a query that begin with the same tokens share the completions of their common steps. These steps share
  one label.
- For hard labels, completions of a step are drawn a few at a time until one is right, which decides the label.
- The last step of a finished solution gets its label from the solution's own answer. The plain method would complete
  it with nothing, with the same result.

A solution also continues each of its own steps, but it does not count as one of their completions: the label of a step
would then depend on the end of that very solution.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from trl.data_utils import is_conversational

from ..engines import Job, TextEngine, job_seed, prompt_ids
from ..errors import ConfigurationError, DatasetError
from ..prm.steps import prompt_text, step_spans
from ..records import Completion, FinishReason
from ..rollouts.judging import Verifiers
from ..rollouts.scoring import Scorer, reward_name
from .recipe import Annotated, Counts, Recipe

SOLUTION, PREFIX = 0, 1  # the use of a seed


@dataclass(frozen=True)
class _Response:
    """A whole response: a solution, or a prefix with its completion."""

    token_ids: list[int]
    text: str
    ended: bool
    right: bool
    judged: bool


@dataclass
class _Prefix:
    """The first steps of one or more solutions of a query, and the counts of its completions."""

    query: int
    number: int  # among the prefixes of its query
    token_ids: tuple[int, ...]
    attempts: int = 0
    successes: int = 0
    judged: bool = True


def annotate(
    engine: TextEngine,
    rows: Iterable[Mapping[str, Any]],
    verifier: Any,
    recipe: Recipe | None = None,
    *,
    completer: TextEngine | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield annotated solutions in the order of the queries.

    Args:
        engine: samples the solutions (`TransformersEngine`, `VLLMEngine`).
        rows (`Iterable[Mapping]`): queries: `prompt`, text or messages, and the columns that the verifier needs.
        verifier: decides whether a response is right: a `RewardFn`, or a reward function as in TRL.
        recipe (`Recipe`, *optional*): None: the defaults.
        completer (*optional*): samples the completions; None: `engine`. The paper completes with a stronger policy.

    Yields:
        `dict`: `prompt` (`str`), `completions` (`list[str]`: the steps) and `labels` (`list[bool]` or `list[float]`),
        as in TRL's stepwise supervision; and `id` (`str`, *optional*: the query's `id` column, or its index),
        `correct` (`bool`: whether the solution's own answer is right), `ended` (`bool`: whether the solution ended by
        itself; the unfinished last step of a solution that was cut off is left out), `successes` and `attempts`
        (`list[int]`: right and sampled completions of each step). A response that was cut off is never right.

    Raises:
        DatasetError: a prompt is empty, or leaves no room for a response in the model's context.
        RewardError: the verifier fails.
    """
    annotator = Annotator(engine, verifier, recipe or Recipe(), completer=completer)
    iterator, first = iter(rows), 0
    try:
        while group := list(islice(iterator, annotator.recipe.group_size)):
            yield from annotator.annotate(group, first).rows
            first += len(group)
    finally:
        annotator.close()


class Annotator:
    """Annotates group by group. Arguments as in [`annotate`].

    Attributes:
        num_responses, num_tokens (`int`): how much was sampled so far, solutions and completions together.
    """

    def __init__(self, engine: TextEngine, verifier: Any, recipe: Recipe, *, completer: TextEngine | None = None):
        self.engine = engine
        self.completer = completer or engine
        if self.completer.tokenizer.get_vocab() != engine.tokenizer.get_vocab():
            raise ConfigurationError("the completer continues the engine's tokens: both need the same vocabulary")
        self.recipe = recipe
        self.num_responses = self.num_tokens = 0
        names = [reward_name(verifier)]
        verifiers = Verifiers.of([verifier], names, [0], None)
        self._scorer = Scorer([verifier], names, weights=[1.0], verifiers=verifiers, tokenizers=[None])

    def close(self) -> None:
        """Release the verifier's resources."""
        self._scorer.close()

    def annotate(self, rows: Sequence[Mapping[str, Any]], first: int = 0) -> Annotated:
        """The annotations of these queries.

        Args:
            rows (`Sequence[Mapping]`): queries.
            first (`int`): the index of the first one in the dataset; seeds and ids depend on it.
        """
        recipe = self.recipe
        prompts_N = self.prompt_ids(rows, first)
        jobs = [
            Job(prompt, recipe.temperature, self._seed(first + query, SOLUTION, copy), recipe.max_new_tokens)
            for query, prompt in enumerate(prompts_N)
            for copy in range(recipe.solutions)
        ]
        queries = [query for query in range(len(rows)) for _ in range(recipe.solutions)]
        solutions = self._respond(self.engine, rows, queries, jobs, [()] * len(jobs))

        unjudged = {query for query, item in zip(queries, solutions, strict=True) if not item.judged}

        prefixes: dict[tuple[int, tuple[int, ...]], _Prefix] = {}
        numbers = [0] * len(rows)
        steps: list[list[str]] = []
        open_steps: list[list[_Prefix]] = []
        for query, solution in zip(queries, solutions, strict=True):
            spans = step_spans(solution.text, recipe.separator)
            # A step's prefix ends at the start of the next step. The last step has no next one: it ends the solution,
            # or is unfinished if the solution was cut off.
            found = [self._tokens(solution, start) for start, _ in spans[1:]]
            for tokens in found:
                if (query, tokens) not in prefixes:
                    prefixes[query, tokens] = _Prefix(query, numbers[query], tokens)
                    numbers[query] += 1
            open_steps.append([prefixes[query, tokens] for tokens in found])
            finished = spans if solution.ended else spans[:-1]
            steps.append([solution.text[start:end] for start, end in finished])
        self._complete(rows, first, prompts_N, [item for item in prefixes.values() if item.query not in unjudged])

        unjudged |= {prefix.query for prefix in prefixes.values() if not prefix.judged}
        annotated = [
            self._row(rows[query], first + query, solution, texts, known)
            for query, solution, texts, known in zip(queries, solutions, steps, open_steps, strict=True)
            if texts and query not in unjudged
        ]
        num_steps = sum(len(row["labels"]) for row in annotated)
        num_last = sum(row["ended"] for row in annotated)
        counts = Counts(
            queries=len(rows),
            unjudged=len(unjudged),
            solutions=len(annotated),
            without_steps=sum(not texts for texts in steps),
            steps=num_steps,
            right_steps=sum(label > 0 for row in annotated for label in row["labels"]),
            completions=sum(prefix.attempts for prefix in prefixes.values()),
            naive=num_steps * recipe.completions,
            naive_open=(num_steps - num_last) * recipe.completions,
        )
        return Annotated(annotated, counts)

    def prompt_ids(self, rows: Sequence[Mapping[str, Any]], first: int = 0) -> list[list[int]]:
        """The prompts' tokens.

        Raises:
            DatasetError: a prompt is missing, empty, too long, neither text nor messages, or has no user message.
            ConfigurationError: a prompt holds messages, and the tokenizer has no chat template.
        """
        prompts = []
        for place, row in enumerate(rows, first):
            prompt = row.get("prompt")
            if prompt is None or prompt == "" or prompt == []:
                raise DatasetError(f"every row needs a prompt: row {place} has none, and the columns {', '.join(row)}")
            is_text = isinstance(prompt, str)
            if not is_text and not is_conversational({"prompt": prompt}):
                raise DatasetError(f"row {place}: a prompt must be a text or messages, got {prompt!r}")
            try:
                prompt_text(prompt)  # the annotated row needs it
            except DatasetError as error:
                raise DatasetError(f"row {place}: {error}") from None
            prompts.append([{"role": "user", "content": prompt}] if is_text and self.recipe.chat else prompt)
        tokenizer = self.engine.tokenizer
        if any(not isinstance(prompt, str) for prompt in prompts) and not tokenizer.chat_template:
            raise ConfigurationError(
                "a prompt of messages, or chat=True, needs a chat template, and this tokenizer has none: send texts"
            )
        found = prompt_ids(tokenizer, prompts)
        limits = [limit for limit in (self.engine.max_length, self.completer.max_length) if limit is not None]
        for place, tokens in enumerate(found, first):
            if limits and len(tokens) + self.recipe.max_new_tokens > min(limits):
                raise DatasetError(
                    f"row {place}: a prompt of {len(tokens)} tokens and {self.recipe.max_new_tokens} new ones do not "
                    f"fit the model's {min(limits)}: lower max_new_tokens, or leave such rows out"
                )
        return found

    def _complete(
        self,
        rows: Sequence[Mapping[str, Any]],
        first: int,
        prompts_N: Sequence[Sequence[int]],
        prefixes: Sequence[_Prefix],
    ) -> None:
        """Sample as many completions of every prefix as its label needs, all prefixes together, round by round."""
        recipe = self.recipe
        hard = recipe.labels == "hard"
        for size in round_sizes(recipe.completions, early_stop=hard):
            open_prefixes = [item for item in prefixes if not (hard and item.successes)]
            drawn = [(item, item.attempts + copy) for item in open_prefixes for copy in range(size)]
            jobs = [
                Job(
                    [*prompts_N[item.query], *item.token_ids],
                    recipe.temperature,
                    self._seed(first + item.query, PREFIX, item.number, attempt),
                    max(1, recipe.max_new_tokens - len(item.token_ids)),
                )
                for item, attempt in drawn
            ]
            responses = self._respond(
                self.completer, rows, [item.query for item, _ in drawn], jobs, [item.token_ids for item, _ in drawn]
            )
            for (item, _), response in zip(drawn, responses, strict=True):
                item.attempts += 1
                item.successes += response.right
                item.judged &= response.judged

    def _respond(
        self,
        engine: TextEngine,
        rows: Sequence[Mapping[str, Any]],
        queries: Sequence[int],
        jobs: Sequence[Job],
        begun: Sequence[Sequence[int]],
    ) -> list[_Response]:
        """Sample and verify; the verifier works while the engine samples. `begun`: the tokens before each sample."""
        order: list[int] = []
        responses: list[Completion] = []
        for positions, sampled in engine.run(jobs):
            self.num_responses += len(sampled)
            self.num_tokens += sum(len(item.token_ids) for item in sampled)
            tokens = [[*begun[place], *item.token_ids] for place, item in zip(positions, sampled, strict=True)]
            texts = engine.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            chunk = []
            for place, sample, token_ids, text in zip(positions, sampled, tokens, texts, strict=True):
                kept = _before(engine.stop, text)
                # A stop string may begin in the prefix and end in the sample; the engine searches only the sample.
                reason: FinishReason = "stop" if sample.ended or len(kept) < len(text) else "length"
                job = jobs[place]
                chunk.append(Completion(queries[place], job.temperature, job.prompt_ids, token_ids, kept, reason))
            self._scorer.add(chunk, [dict(rows[item.query_id]) for item in chunk], None)
            order += positions
            responses += chunk
        values_RF, query_ids_R = self._scorer.finish().values_RF, np.array([item.query_id for item in responses])
        right_R = self._scorer.verifiers.correct(values_RF, query_ids_R).tolist()
        judged_R = (self._scorer.verifiers.judges(values_RF, query_ids_R) >= 0).tolist()
        found: dict[int, _Response] = {}
        for place, item, right, judged in zip(order, responses, right_R, judged_R, strict=True):
            ended = item.finish_reason == "stop"
            found[place] = _Response(list(item.token_ids), item.text, ended, right and ended, judged)
        return [found[place] for place in range(len(jobs))]

    def _tokens(self, solution: _Response, end: int) -> tuple[int, ...]:
        """The tokens of the solution's text up to `end`; a text that ends inside a sampled token is tokenised anew."""
        tokenizer, token_ids, text = self.engine.tokenizer, solution.token_ids, solution.text[:end]

        def decoded(count: int) -> str:
            return tokenizer.decode(token_ids[:count], skip_special_tokens=True)

        count = bisect_left(range(len(token_ids)), end, key=lambda count: len(decoded(count)))
        if decoded(count) == text:
            return tuple(token_ids[:count])
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _row(
        self, row: Mapping[str, Any], place: int, solution: _Response, steps: list[str], prefixes: Sequence[_Prefix]
    ) -> dict[str, Any]:
        name = row.get("id", place)
        successes = [prefix.successes for prefix in prefixes]
        attempts = [prefix.attempts for prefix in prefixes]
        if solution.ended:
            successes.append(int(solution.right))
            attempts.append(1)
        soft = [right / tried for right, tried in zip(successes, attempts, strict=True)]
        return {
            "prompt": prompt_text(row["prompt"]),
            "completions": steps,
            "labels": soft if self.recipe.labels == "soft" else [share > 0 for share in soft],
            "id": None if name is None else str(name),
            "correct": solution.right,
            "ended": solution.ended,
            "successes": successes,
            "attempts": attempts,
        }

    def _seed(self, *numbers: int) -> int:
        return job_seed(self.recipe.seed, *numbers)


def round_sizes(completions: int, *, early_stop: bool) -> list[int]:
    """The number of completions of an open prefix in each round.

    With `early_stop` each round draws as many as all rounds before it (1, 1, 2, 4 for 8). That takes half the rounds
    of drawing one at a time, and few completions more, since a prefix that has failed often rarely succeeds later.
    """
    if not early_stop:
        return [completions]
    sizes = [1]
    while (drawn := sum(sizes)) < completions:
        sizes.append(min(drawn, completions - drawn))
    return sizes


def _before(stop: Sequence[str], text: str) -> str:
    """The text up to the first stop string."""
    return text[: min((place for item in stop if (place := text.find(item)) >= 0), default=len(text))]
