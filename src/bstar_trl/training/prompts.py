"""The prompts of queries as tokens, checked against what the model can take."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from ..engines import as_list, context_length, prompt_ids
from ..errors import ConfigurationError, DatasetError

logger = logging.getLogger(__name__)


class PromptReader:
    """Tokenises prompts for one model.

    Args:
        tokenizer: the model's.
        model (`PreTrainedModel`): its embedding and its context set the limits.
        max_length (`int`, *optional*): tokens of prompt and response together; `None`: the model's own limit.

    Raises:
        ConfigurationError: the embedding has no row for the token that pads or ends a response.
    """

    def __init__(self, tokenizer: Any, model: Any, *, max_length: int | None = None):
        self.tokenizer = tokenizer
        self.max_length = max_length or context_length(model)
        self.num_embeddings: int | None = getattr(model.get_input_embeddings(), "num_embeddings", None)
        if self.num_embeddings is not None and len(tokenizer) > self.num_embeddings:
            logger.warning("The tokenizer has %d tokens, but the model has %s.", len(tokenizer), self._remedy())
        for name in ("pad_token", "eos_token"):
            for token in as_list(getattr(tokenizer, f"{name}_id")):
                if not self._has_row(token):
                    raise ConfigurationError(
                        f"the tokenizer's {name} {getattr(tokenizer, name)!r} has the id {token}, but the model has "
                        f"{self._remedy()}"
                    )

    def check(self, name: str, dataset: Any, **template_kwargs: Any) -> None:
        """Refuse at once what [`read`] would refuse in a later iteration: empty and long prompts of a dataset.

        Only prompts with as many characters as the context has tokens are tokenised; rare others are left to [`read`].
        `name` is what errors call the dataset.
        """
        if not isinstance(dataset, Dataset) or dataset.format["type"] is not None:
            return  # the rows of a stream, or of a transform, are not known yet
        all_known = self.num_embeddings is None or len(self.tokenizer) <= self.num_embeddings
        for query_id, prompt in enumerate(dataset["prompt"]):
            if not prompt or not all_known or (self.max_length is not None and _size(prompt) >= self.max_length):
                self.read({query_id: {"prompt": prompt}}, f"row {{}} of the {name}", **template_kwargs)

    def read(
        self, rows: Mapping[int, Mapping[str, Any]], place: str = "query {}", **template_kwargs: Any
    ) -> dict[int, list[int]]:
        """The tokens of each query's prompt.

        Args:
            rows (`Mapping[int, Mapping[str, Any]]`): the dataset row of each query.
            place (`str`): what errors call a query.
            **template_kwargs: arguments of the chat template.

        Raises:
            DatasetError: a prompt is empty, is longer than the model's context, or holds a token without a row in the
                embedding; names the query.
        """
        for query_id, row in rows.items():
            if not row["prompt"]:
                raise DatasetError(f"the prompt of {place.format(query_id)} is empty: got {row['prompt']!r}")
        prompts = prompt_ids(self.tokenizer, [row["prompt"] for row in rows.values()], **template_kwargs)
        for query_id, tokens in zip(rows, prompts, strict=True):
            if self.max_length is not None and len(tokens) >= self.max_length:
                raise DatasetError(
                    f"the prompt of {place.format(query_id)}, {rows[query_id]['prompt']!r:.60}..., has {len(tokens)} "
                    f"tokens, but the model takes {self.max_length} for prompt and response together: shorten or drop "
                    "such rows, for example with dataset.filter"
                )
            unknown = next((token for token in tokens if not self._has_row(token)), None)
            if unknown is not None:
                token = self.tokenizer.convert_ids_to_tokens(unknown)
                raise DatasetError(
                    f"the prompt of {place.format(query_id)} holds the token {token!r} with the id {unknown}, but the "
                    f"model has {self._remedy()}"
                )
        return dict(zip(rows, prompts, strict=True))

    def _has_row(self, token: int) -> bool:
        return self.num_embeddings is None or token < self.num_embeddings

    def _remedy(self) -> str:
        return (
            f"embeddings for {self.num_embeddings} tokens: call model.resize_token_embeddings({len(self.tokenizer)}), "
            "or use the model's own tokenizer"
        )


def _size(prompt: Any) -> int:
    """Characters of a text, or of all messages."""
    return len(prompt) if isinstance(prompt, str) else sum(len(str(message["content"])) for message in prompt)


def named_datasets(train_dataset: Any, eval_dataset: Any) -> dict[str, Any]:
    """Everything that is trained and evaluated on, under the names that errors use."""
    found = {"training dataset": train_dataset}
    if isinstance(eval_dataset, dict):
        return found | {f"evaluation dataset {name!r}": dataset for name, dataset in eval_dataset.items()}
    return found if eval_dataset is None else found | {"evaluation dataset": eval_dataset}
