"""The metrics as `evaluate.Metric`s, for scripts that collect figures with Hugging Face's `evaluate` (an extra).

```python
metric = load_metric("pass_at_k_s")
metric.compute(correct=[[True, False, True]], response_ids=[[7, 8, 9]], k=2, s=2)  # {"pass_at_k_s": 0.333...}
```
"""

from __future__ import annotations

from typing import Any

from datasets import Features, Value
from datasets import List as ListOf

from . import metrics
from .errors import ConfigurationError, MissingDependencyError

try:
    import evaluate
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"bstar_trl.evaluate_metrics needs the package `evaluate`, which cannot be imported ({error}): "
        "pip install evaluate"
    ) from error

_TYPES = {"correct": Value("bool"), "response_ids": Value("int64"), "rewards": Value("float64")}
# The columns that each metric takes, in the order of its function's arguments.
_COLUMNS = {
    "pass_at_k": ("correct",),
    "pass_at_k_s": ("correct", "response_ids"),
    "best_of_k": ("rewards", "correct"),
    "reward_at_k_s": ("rewards", "correct"),
}


class BStarMetric(evaluate.Metric):
    """One function of `bstar_trl.metrics`; one row per query, with the function's options `k` and `s`."""

    def __init__(self, name: str, **kwargs: Any):
        self._function = name
        super().__init__(config_name=name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        columns = _COLUMNS[self._function]
        return evaluate.MetricInfo(
            description=str(getattr(metrics, self._function).__doc__),
            citation="Zeng et al., B-STaR, arXiv 2412.17256, section 2.2",
            inputs_description=f"One row per query: {', '.join(columns)}, each a list of K values.",
            features=Features({column: ListOf(_TYPES[column]) for column in columns}),
        )

    def _compute(self, *, k: int | None = None, s: int | None = None, **columns: Any) -> dict[str, float]:
        options = {name: value for name, value in {"k": k, "s": s}.items() if value is not None}
        values = [columns[name] for name in _COLUMNS[self._function]]
        return {self._function: float(getattr(metrics, self._function)(*values, **options))}


def load_metric(name: str, **kwargs: Any) -> BStarMetric:
    """`pass_at_k`, `pass_at_k_s`, `best_of_k` or `reward_at_k_s` as an `evaluate.Metric`.

    Args:
        name (`str`): the function of `bstar_trl.metrics`.
        **kwargs: passed on to `evaluate.Metric` (`cache_dir`, `experiment_id`, ...).

    Raises:
        ConfigurationError: there is no such metric.
    """
    if name not in _COLUMNS:
        raise ConfigurationError(f"metric must be one of {', '.join(_COLUMNS)}, got {name!r}")
    return BStarMetric(name, **kwargs)
