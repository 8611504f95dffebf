"""The metrics as `evaluate.Metric`s, for those who collect figures with Hugging Face's `evaluate`. Needs the extra
`evaluate`; a training does not.

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

_COLUMNS = {"correct": Value("bool"), "response_ids": Value("int64"), "rewards": Value("float64")}
# What each function is called with, in order.
_FACES = {
    "pass_at_k": ("correct",),
    "pass_at_k_s": ("correct", "response_ids"),
    "best_of_k": ("rewards", "correct"),
    "reward_at_k_s": ("rewards", "correct"),
}


class BStarMetric(evaluate.Metric):
    """One function of `bstar_trl.metrics`; a row per query, options (`k`, `s`) as the function has them."""

    def __init__(self, name: str, **kwargs: Any):
        self._face = name
        super().__init__(config_name=name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        function = getattr(metrics, self._face)
        return evaluate.MetricInfo(
            description=str(function.__doc__),
            citation="Zeng et al., B-STaR, arXiv 2412.17256, section 2.2",
            inputs_description=f"One row per query: {', '.join(_FACES[self._face])}, each a list of K values.",
            features=Features({column: ListOf(_COLUMNS[column]) for column in _FACES[self._face]}),
        )

    def _compute(self, *, k: int | None = None, s: int | None = None, **columns: Any) -> dict[str, float]:
        options = {name: value for name, value in {"k": k, "s": s}.items() if value is not None}
        values = getattr(metrics, self._face)(*(columns[name] for name in _FACES[self._face]), **options)
        return {self._face: float(values)}


def load_metric(name: str, **kwargs: Any) -> BStarMetric:
    """`pass_at_k`, `pass_at_k_s`, `best_of_k` or `reward_at_k_s`, as `evaluate.load` would give it.

    Args:
        name (`str`): the function of `bstar_trl.metrics`.
        **kwargs: those of `evaluate.Metric` (`cache_dir`, `experiment_id`, ...).

    Raises:
        ConfigurationError: there is no such metric.
    """
    if name not in _FACES:
        raise ConfigurationError(f"metric must be one of {', '.join(_FACES)}, got {name!r}")
    return BStarMetric(name, **kwargs)
