"""What a run says while it samples, and when it found nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tqdm.auto import tqdm

from ..config import BSTaRConfig
from ..records import Completion, Request, Rollouts, Setting
from ..rollouts.judging import Verifiers


def with_progress(
    completions: Iterator[Completion], requests: Sequence[Request], *, shown: bool
) -> Iterator[Completion]:
    """The same completions, beside a bar that tells how many responses and tokens a second they come at."""
    total = sum(len(request.query_ids) * request.n for request in requests)
    temperatures = ", ".join(f"{request.temperature:g}" for request in requests)
    title = f"Sampling at T = {temperatures}"
    with tqdm(total=total, desc=title, unit=" responses", leave=False, disable=not (shown and total)) as bar:
        num_tokens = 0
        for completion in completions:
            num_tokens += len(completion.token_ids)
            if not bar.disable:
                rate = num_tokens / max(1e-9, bar.format_dict["elapsed"])
                bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            bar.update()
            yield completion


def explain_empty(rollouts: Rollouts, setting: Setting, verifiers: Verifiers, args: BSTaRConfig) -> str:
    """Why nothing was selected, in a sentence that says what to change."""
    if not rollouts.ended_R.any():
        return (
            f"all {len(rollouts)} responses were cut off at max_completion_length="
            f"{args.max_completion_length}: raise it, or use a model that ends its responses"
        )
    if not rollouts.judged_R.any():
        return "the verifier could judge no response (it returned None for all): look at its dataset column"
    if not rollouts.correct_R.any() and verifiers.are_relative:
        return (
            "the reward model gave all responses of a query the same value "
            f"({verifiers.explained(rollouts.values_RF)}): look at its input, or raise the temperatures"
        )
    if not rollouts.correct_R.any():
        return (
            f"no response of {len(rollouts)} was correct at temperature {setting.temperature:g} "
            f"({verifiers.explained(rollouts.values_RF)}): lower `correct_at` if some of these values are those of "
            "correct responses (BSTaRConfig(correct_at=...)); otherwise try an easier dataset, more responses per "
            "query (num_generations), or a stronger starting model"
        )
    if not rollouts.correct_R[rollouts.ended_R].any():
        return (
            f"every correct response was cut off at max_completion_length={args.max_completion_length}: raise it, or "
            "use a model that ends its responses"
        )
    highest = float(rollouts.rewards_R[rollouts.ended_R & rollouts.correct_R].max())
    return (
        f"the reward of no correct response exceeds the threshold {setting.threshold:g} (the highest is {highest:g}): "
        "lower the thresholds"
    )
