"""`BSTaRConfig`: GRPO's configuration and the few numbers that B-STaR adds, checked before any weight is loaded."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available
from trl import GRPOConfig

from .engines import as_merge
from .errors import ConfigurationError
from .options import IterationOptions

CHUNK_WITH_VLLM = 512
CHUNK_WITHOUT_VLLM = 128
DEFAULT_STEPS = 100
DEFAULT_TARGET = 5.0

# TRL's options without effect, by what they are about.
WITHOUT_EFFECT = (  # noqa: SIM905 - a list would need a line per option
    # The policy gradient: the loss is a likelihood.
    "beta loss_type epsilon epsilon_high delta num_iterations scale_rewards multi_objective_aggregation "
    "importance_sampling_level sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_lambda_pos "
    "vespo_k_neg vespo_lambda_neg mask_truncated_completions sync_ref_model ref_model_mixup_alpha "
    "ref_model_sync_steps top_entropy_quantile entropy_coef use_adaptive_entropy entropy_coef_min "
    "entropy_coef_max entropy_coef_delta entropy_target off_policy_mask_threshold use_bias_correction_kl "
    "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_clip_max "
    "vllm_importance_sampling_clip_min vllm_importance_sampling_cap "
    # Continuous batching: responses come from `generate` or vLLM.
    "use_transformers_continuous_batching use_transformers_paged transformers_continuous_batching_config "
    # Tools and images.
    "max_tool_calling_iterations log_multimodal "
    # Row loading: queries are read as they are sampled.
    "dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_persistent_workers "
    "dataloader_prefetch_factor data_seed train_sampling_strategy length_column_name ignore_data_skip "
    # The parent's loss and evaluation loop: `evaluate` has its own.
    "average_tokens_across_devices label_names label_smoothing_factor prediction_loss_only bf16_full_eval "
    "fp16_full_eval batch_eval_metrics eval_accumulation_steps eval_do_concat_batches eval_use_gather_object "
    "include_for_metrics "
).split()

WHOLE_NUMBERS = (
    "iteration_steps",
    "queries_per_iteration",
    "samples_per_iteration",
    "generation_chunk_size",
    "max_completion_length",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)


@dataclass(frozen=True)
class IterationPlan:
    """The numbers of one iteration.

    Args:
        num_queries (`int`): N, queries explored.
        num_samples (`int`): M, selected responses wanted.
        num_steps (`int`): optimizer steps.
        batch_size (`int`): B, responses per optimizer step over all processes and accumulation steps.
        target (`float`): n*, correct responses wanted per query (paper, section 3.1), in 1..K.
    """

    num_queries: int
    num_samples: int
    num_steps: int
    batch_size: int
    target: float

    def epoch_steps(self, dataset_size: int) -> int:
        """Optimizer steps of an epoch, which explores every query of the dataset once."""
        return math.ceil(dataset_size / self.num_queries) * self.num_steps


@dataclass
class BSTaRConfig(IterationOptions, GRPOConfig):
    r"""
    Configuration class for the [`BSTaRTrainer`].

    It is a [`~trl.GRPOConfig`] with the parameters below; a table in the documentation says for each of TRL's own
    options whether it is honoured, without effect, or refused. With none of them set, N, M and the steps follow from
    the batch size and the dataset.

    Parameters:
        iteration_steps (`int`, *optional*):
            Optimizer steps of one iteration. If `None`, as many as it takes to see `samples_per_iteration` once.
        queries_per_iteration (`int`, *optional*):
            Queries explored in one iteration (N in the paper). If `None`, the smaller of the dataset's size and what
            `iteration_steps` (or 100) steps need.
        samples_per_iteration (`int`, *optional*):
            Selected responses trained on in one iteration (M in the paper). If `None`, `balance_target` times
            `queries_per_iteration`.
        balance_target (`float`, *optional*):
            Correct responses wanted per query (n* in equation 3 of the paper), in 1..`num_generations`. If `None`,
            M / N where both are set, else the smaller of 5 and half of `num_generations`.
        verifier (`str` or `list[str]`, *optional*):
            Name (or index) of the reward function that says *correct or not*. Needed where there are several reward
            functions and not exactly one of them is a verifier of this package. Several names: each of these judges
            rows of its own, which the dataset's column `verifier` tells apart, or the others' `None`.
        correct_at (`float`, *optional*):
            The smallest value of a verifier for a correct response; with several verifiers a dict by name is accepted,
            too. If `None`, the reward function's own attribute `correct_at`, or 1.0 where it has none. A reward model
            that is the only reward and has none calls correct what lies above the mean of its query's responses.
        inheritance (`str`, *optional*, defaults to `"online"`):
            What an iteration takes over from the one before: `"online"` weights, optimizer and schedule (Online RFT,
            B-STaR); `"iterative"` the weights (Iterative RFT); `"restart"` nothing (STaR, ReST-EM).
        generation_chunk_size (`int`, *optional*):
            Completions in flight per process. If `None`, 512 with vLLM and 128 without. `steps_per_generation` and
            `generation_batch_size` are derived from it; if one of those is set instead, it says the same thing.
        merge_for_sampling (`str`, *optional*, defaults to `"auto"`):
            Without vLLM: whether adapters (LoRA and others) are merged once per iteration, into a copy of the weights
            under them, from which responses are sampled; the model itself stays as it is. `"always"`, `"never"` (or
            `True`, `False`), or `"auto"`: where they can be merged and the copy takes less than half of the free
            memory.

    > [!NOTE]
    > These parameters have default values different from [`~trl.GRPOConfig`]:
    > - `learning_rate`: Defaults to `2e-5` instead of `1e-6`.
    > - `num_generations`: Defaults to `16` instead of `8`.
    > - `bf16`: Defaults to `True` only where the machine can do it.
    > - `metric_for_best_model`: Defaults to `"eval_pass@1"` instead of `"loss"` where a best model is asked for.

    Raises:
        ConfigurationError: a number is outside its range.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate for AdamW."})
    num_generations: int = field(default=16, metadata={"help": "Responses per query (K in the paper), at least 2."})

    def __post_init__(self) -> None:
        self._check_numbers()
        self._prefer_pass_at_1()
        if self.bf16 is None and not (
            self.fp16 or self.use_cpu or is_torch_bf16_gpu_available() or is_torch_xla_available()
        ):
            self.bf16 = False  # TRL's default would refuse a machine that has no bf16
        self._claim_chunk_size()
        eval_generations = self.num_generations_eval
        # The parent demands that whole groups of K fill its generation batch and its evaluation batch. B-STaR divides
        # its sampling and its evaluation itself, so the parent gets numbers that always pass. The real numbers follow
        # below, where the number of processes is known.
        self.steps_per_generation, self.generation_batch_size = self.num_generations, None
        self.num_generations_eval = 1
        super().__post_init__()
        self.num_generations_eval = eval_generations
        self._derive_batch_geometry()

    @property
    def chunk_size(self) -> int:
        """Completions in flight per process, in whole groups."""
        return self.per_device_train_batch_size * (self.steps_per_generation or 1)

    @property
    def num_eval_generations(self) -> int:
        """Responses sampled per query in evaluation."""
        return self.num_generations_eval or self.num_generations

    @property
    def wants_best_model(self) -> bool:
        """Whether anything goes by `metric_for_best_model`."""
        return (
            self.load_best_model_at_end
            or self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
            or str(getattr(self.save_strategy, "value", self.save_strategy)) == "best"
        )

    def plan(self, dataset_size: int | None) -> IterationPlan:
        """Decide N, M, the steps and n* for a dataset of this many rows (`None`: a stream).

        Raises:
            ConfigurationError: N, M or n* is out of its range; the message shows the arithmetic.
        """
        batch_size = self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps
        target, arithmetic = self._target()
        if not 1 <= target <= self.num_generations:
            raise ConfigurationError(
                f"balance_target (n*) must be in 1..{self.num_generations} (num_generations), got {arithmetic}"
            )
        num_queries = self.queries_per_iteration
        if num_queries is None:
            num_queries = math.ceil((self.iteration_steps or DEFAULT_STEPS) * batch_size / target)
            num_queries = num_queries if dataset_size is None else min(dataset_size, num_queries)
        if num_queries < 1 or (dataset_size is not None and num_queries > dataset_size):
            raise ConfigurationError(
                f"queries_per_iteration must be in 1..{dataset_size} (the dataset's rows), got {num_queries}"
            )
        num_samples = self.samples_per_iteration or math.floor(target * num_queries + 0.5)
        if num_samples > num_queries * self.num_generations:
            raise ConfigurationError(
                f"samples_per_iteration must be in 1..{num_queries * self.num_generations} (queries_per_iteration "
                f"{num_queries} x num_generations {self.num_generations}), got {num_samples}"
            )
        num_steps = self.iteration_steps or math.ceil(num_samples / batch_size)
        # Numbers that follow from the steps may exceed them by a rounding, which is less than one query's share.
        derived = self.samples_per_iteration is None and self.queries_per_iteration is None
        if num_samples > num_steps * batch_size and not derived:
            warnings.warn(
                f"samples_per_iteration is {num_samples}, but one iteration trains on {num_steps} steps x "
                f"{batch_size} = {num_steps * batch_size} samples: the others are never seen",
                stacklevel=4,  # the script that builds the trainer: above are `prepare` and the constructor
            )
        return IterationPlan(num_queries, num_samples, num_steps, batch_size, target)

    def ineffective_options(self) -> list[str]:
        """TRL's options that were set, but have no effect on B-STaR."""
        return [name for name, default in self._neutral_options().items() if getattr(self, name) != default]

    @contextmanager
    def as_parent_sees_it(self) -> Iterator[None]:
        """Within, GRPO's trainer is built with temperature 1 and without a policy gradient; then the values return.

        The parent divides its logits by the temperature, and the likelihood needs them at T = 1. With the
        importance sampling correction it would ask a vLLM server for log-probabilities that nobody reads.
        """
        neutral = self._neutral_options() | {"temperature": 1.0, "vllm_importance_sampling_correction": False}
        mine = {name: getattr(self, name) for name in neutral}
        self._set(neutral)
        try:
            yield
        finally:
            self._set(mine)

    def _neutral_options(self) -> dict[str, Any]:
        """The defaults of those options without effect that this TRL has."""
        fields = {item.name: item for item in dataclasses.fields(self) if item.name in WITHOUT_EFFECT}
        return {
            name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            for name, item in fields.items()
        }

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    def _check_numbers(self) -> None:
        if self.num_generations is None or self.num_generations < 2:
            raise ConfigurationError(
                f"num_generations (K) must be at least 2, got {self.num_generations}: with one response per query "
                "there is nothing to select from"
            )
        for name in WHOLE_NUMBERS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value}")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ConfigurationError(f"max_steps must be at least 1, or -1 for num_train_epochs, got {self.max_steps}")
        if not float(self.learning_rate) >= 0:
            raise ConfigurationError(f"learning_rate must be at least 0, got {self.learning_rate}")
        if self.seed < 0:
            raise ConfigurationError(f"seed must be at least 0, got {self.seed}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigurationError(f"temperature must be greater than 0, got {self.temperature}")
        if self.inheritance not in ("online", "iterative", "restart"):
            raise ConfigurationError(
                f"inheritance must be one of 'online', 'iterative', 'restart', got {self.inheritance!r}"
            )

        self.merge_for_sampling = as_merge(self.merge_for_sampling)

    def _target(self) -> tuple[float, str]:
        """n* and the arithmetic that gave it."""
        if self.balance_target is not None:
            return float(self.balance_target), f"{self.balance_target:g}"
        if self.samples_per_iteration is not None and self.queries_per_iteration is not None:
            target = self.samples_per_iteration / self.queries_per_iteration
            return target, (
                f"samples_per_iteration / queries_per_iteration = {self.samples_per_iteration} / "
                f"{self.queries_per_iteration} = {target:g}"
            )
        target = min(DEFAULT_TARGET, self.num_generations / 2)
        return target, f"min({DEFAULT_TARGET:g}, num_generations / 2) = {target:g}"

    def _prefer_pass_at_1(self) -> None:
        """There is no evaluation loss, which the parent defaults to, so pass@1 is the default."""
        if self.wants_best_model and self.metric_for_best_model in (None, "loss", "eval_loss"):
            self.metric_for_best_model, self.greater_is_better = "eval_pass@1", True

    def _claim_chunk_size(self) -> None:
        """Read the chunk size from either of TRL's two names for it.

        If both are set, they come from an earlier `__post_init__` and are ignored.
        """
        if self.generation_chunk_size is None and (self.steps_per_generation is None) != (
            self.generation_batch_size is None
        ):
            if self.steps_per_generation is not None:
                self.generation_chunk_size = self.per_device_train_batch_size * self.steps_per_generation
            else:
                self.generation_chunk_size = self.generation_batch_size

    def _derive_batch_geometry(self) -> None:
        """The smallest batch of whole groups that holds a chunk: colocated vLLM takes its capacity from it."""
        chunk_size = self.generation_chunk_size or (CHUNK_WITH_VLLM if self.use_vllm else CHUNK_WITHOUT_VLLM)
        step_size = self.per_device_train_batch_size * self.world_size
        whole_groups = self.num_generations // math.gcd(self.num_generations, step_size)
        chunks = math.ceil(chunk_size / (self.per_device_train_batch_size * whole_groups))
        self.steps_per_generation = whole_groups * chunks
        self.generation_batch_size = step_size * self.steps_per_generation


def as_bstar_config(args: GRPOConfig | None, model_name: str) -> BSTaRConfig:
    """A `BSTaRConfig` for whatever a GRPO script passes: nothing, GRPO's own configuration, or ours."""
    if args is None:
        return BSTaRConfig(output_dir=f"{model_name}-BSTaR")
    if isinstance(args, BSTaRConfig):
        return args
    names = [item.name for item in dataclasses.fields(GRPOConfig) if item.init]
    return BSTaRConfig(**{name: getattr(args, name) for name in names})
