"""`BSTaRTrainer`: GRPO's trainer, turned into balanced self-taught reasoning."""

from __future__ import annotations

import logging
import os
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, speed_metrics
from trl import GRPOTrainer

from ..config import BSTaRConfig, as_bstar_config
from ..errors import BStarError, ConfigurationError, EmptySelectionError, UnsupportedOptionError
from ..records import Completion, Request, Rollouts, Selection, Setting
from ..rollouts.queries import make_queries
from ..rollouts.round import Sampling
from ..rollouts.scoring import Scorer
from ..rollouts.store import grids
from ..selection import select
from . import logging as tracking
from .batches import BatchShape, Ticks, TrainingBatches
from .checks import (
    check_dataset,
    check_datasets,
    check_options,
    check_rewards,
    find_balance_callback,
    is_balance_callback,
)
from .evaluation import evaluation_datasets, evaluation_metrics
from .inheritance import Inheritance
from .policy import PolicySampler, completion_log_probs
from .run_state import last_whole_checkpoint, load_state, save_state

logger = logging.getLogger(__name__)

MOST_EMPTY_ROUNDS = 3


class BSTaRTrainer(GRPOTrainer):
    """
    Trainer for B-STaR: iterative rejection-sampling fine-tuning that watches exploration and exploitation and retunes
    the sampling temperature and the reward threshold in every iteration. From [B-STaR: Monitoring and Balancing
    Exploration and Exploitation in Self-Taught Reasoners](https://huggingface.co/papers/2412.17256).

    A drop-in for [`~trl.GRPOTrainer`]: same arguments, plus what [`BSTaRConfig`] and [`BalanceCallback`] add.

    ```python
    trainer = BSTaRTrainer(
        model="Qwen/Qwen2.5-1.5B-Instruct",
        reward_funcs=AnswerMatch(),
        args=BSTaRConfig(output_dir="out"),
        train_dataset=dataset,
        callbacks=[BalanceCallback()],
    )
    trainer.train()
    ```

    Two methods are public and meant for subclasses: [`generate_responses`] and [`select_responses`].

    Overridden of the parents, and why: `get_train_dataloader` (the loader only ticks: an iteration decides what is
    served), `_prepare_inputs` (explores at an iteration's start, then serves its micro-batches), `compute_loss` (a
    likelihood), `evaluate` (metrics per query), `prediction_step` (refused), `log` (adds the iteration's figures),
    `create_scheduler` (the horizon depends on `inheritance`), `add_callback` (a balance comes with the constructor),
    `train`, `_save_checkpoint` and `_load_optimizer_and_scheduler` (resuming), `_load_best_model` (tells the engine).

    Raises:
        ConfigurationError: options that cannot work, before any weight is loaded.
        DatasetError: the dataset lacks a reward's column.
        RewardError: a reward function returned no reward; at the first batch that shows it.
        EmptySelectionError: three rounds in a row selected nothing.
    """

    args: BSTaRConfig
    batches: TrainingBatches | None

    _tag_names = ["trl", "bstar"]  # noqa: RUF012 - the parent declares it so
    _name = "B-STaR"
    _paper = {  # noqa: RUF012
        "title": "B-STaR: Monitoring and Balancing Exploration and Exploitation in Self-Taught Reasoners",
        "id": "2412.17256",
        "citation": textwrap.dedent("""\
            @inproceedings{zeng2025bstar,
                title     = {{B-STaR: Monitoring and Balancing Exploration and Exploitation in Self-Taught Reasoners}},
                author    = {Weihao Zeng and Yuzhen Huang and Lulu Zhao and Yijun Wang and Zifei Shan and Junxian He},
                booktitle = {The Thirteenth International Conference on Learning Representations},
                year      = 2025,
            }"""),
    }

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: list[Callable] | None = None,
        rollout_func: Any = None,
        environment_factory: Any = None,
    ):
        model_id = model if isinstance(model, str) else str(model.config._name_or_path)
        args = as_bstar_config(args, model_id.rstrip("/").split("/")[-1] or "model")
        check_options(args, train_dataset, tools, rollout_func, environment_factory)
        self.balance, callbacks = find_balance_callback(callbacks, args)
        functions = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        verifier = check_rewards(functions, args)
        check_datasets(functions, args, train_dataset, eval_dataset)
        dataset_size = len(train_dataset) if isinstance(train_dataset, Dataset) else None
        self.plan = args.plan(dataset_size)
        self.balance.setup(
            self.plan, num_generations=args.num_generations, temperature=args.temperature, seed=args.seed
        )
        with args.as_parent_sees_it():
            super().__init__(
                model=model,
                reward_funcs=functions,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        self.sampler = PolicySampler(self)
        self.scorer = Scorer(
            self.reward_funcs,
            self.reward_func_names,
            weights=self.reward_weights.tolist(),
            verifier=verifier,
            tokenizers=self.reward_processing_classes,
            chat_template_kwargs=args.chat_template_kwargs,
            batch_size=args.per_device_eval_batch_size,
        )
        self.queries = make_queries(self._columns_in_use(train_dataset), shuffle=args.shuffle_dataset, seed=args.seed)
        self.inheritance = Inheritance(self)
        self._rows: Any = self.queries
        self.shape = BatchShape(
            args.gradient_accumulation_steps, self.accelerator.num_processes, args.per_device_train_batch_size
        )
        self.rng = np.random.default_rng([args.seed, 2])
        self.batches: TrainingBatches | None = None
        self.iteration = 0
        self.figures: dict[str, float] = {}
        self._table: tracking.CompletionsTable | None = None
        # The parent prints and saves its own table of completions and advantages; ours says what was selected.
        self.log_completions = False

    # ------------------------------------------------------------------ the iteration

    def _run_iteration(self) -> Selection:
        """Probe, explore, score, select (design of the paper's algorithm 1); the optimizer steps follow."""
        num_sampled = 0
        for _ in range(MOST_EMPTY_ROUNDS):
            queries = self.queries.take(self.plan.num_queries)
            sampling = self._sampling(self.queries)
            with self.sampler.session():
                rollouts = self.balance.explore(sampling, queries)
            setting = self.balance.settle(rollouts)
            selection = self.select_responses(rollouts, setting)
            if not isinstance(selection, Selection):
                raise BStarError(f"select_responses must return a Selection, got {type(selection).__name__}")
            num_sampled += sampling.num_sampled
            self.state.num_input_tokens_seen += sampling.num_tokens
            if len(selection):
                self._track(setting, rollouts, selection, sampling, num_sampled)
                return selection
            reason = tracking.explain_empty(rollouts, setting, self.args)
            logger.warning("Iteration %d selected nothing: %s. Exploring the next queries.", self.iteration, reason)
        raise EmptySelectionError(f"{MOST_EMPTY_ROUNDS} rounds in a row selected no response. The last one: {reason}")

    def generate_responses(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Sample every response that this process is asked for, in any order; scoring goes on beside.

        A hook for subclasses. Called once per round of [`BalanceCallback.explore`] and once per evaluation; several
        temperatures come in one call. `self.rows` holds the dataset rows.

        Args:
            requests (`Sequence[Request]`): query ids, temperature (0: greedy), responses per query, seed.

        Returns:
            An iterable of `Completion`: `n` per query and request.
        """
        total = sum(len(request.query_ids) * request.n for request in requests)
        temperatures = ", ".join(f"{request.temperature:g}" for request in requests)
        shown = not self.args.disable_tqdm and self.accelerator.is_main_process and total > 0
        with tqdm(total=total, desc=f"Sampling at T = {temperatures}", leave=False, disable=not shown) as bar:
            prompts = {query_id: self.rows[query_id]["prompt"] for item in requests for query_id in item.query_ids}
            for completion in self.sampler.generate(requests, prompts):
                bar.update()
                yield completion

    def select_responses(self, rollouts: Rollouts, setting: Setting) -> Selection:
        """Choose what the iteration trains on: a hook for subclasses.

        Keeps selectable responses whose reward exceeds the threshold, at most as many per query as it takes to reach
        `samples_per_iteration`, the best rewards first.

        Args:
            rollouts (`Rollouts`): all responses of the iteration's exploration, the same on every process.
            setting (`Setting`): the iteration's temperature and threshold.
        """
        arrays = grids(rollouts)
        chosen_M2 = select(
            arrays.rewards_NK,
            arrays.selectable_NK,
            setting.threshold,
            budget=self.plan.num_samples,
            rng=self.rng,
        )
        return Selection(rollouts.take(arrays.index_NK[chosen_M2[:, 0], chosen_M2[:, 1]]), self.plan.num_samples)

    @property
    def rows(self) -> Any:
        """The dataset rows of the queries last sampled, by query id: the training set's, or an evaluation's."""
        return self._rows

    def _sampling(self, rows: Any) -> Sampling:
        self._rows = rows
        return Sampling(
            self.generate_responses,
            self.scorer,
            rows,
            accelerator=self.accelerator,
            chunk_size=self.args.chunk_size,
            trainer_state=self.state,
        )

    def _track(
        self, setting: Setting, rollouts: Rollouts, selection: Selection, sampling: Sampling, num_sampled: int
    ) -> None:
        if len(selection) < selection.wanted:
            logger.info("Iteration %d: %d of %d samples found.", self.iteration, len(selection), selection.wanted)
        self.figures = {
            **tracking.iteration_metrics(rollouts, selection, self.scorer),
            **sampling.logged_metrics(),
            **self.balance.record(setting, num_sampled, len(rollouts)),
            "iteration": float(self.iteration),
            "num_tokens": float(self.state.num_input_tokens_seen),
        }
        if self.args.log_completions:
            shown = rollouts.take(np.arange(min(self.args.chunk_size, len(rollouts))))
            extras = sampling.logged_extras(shown.rows_R)
            self._logs["extra"] = extras  # where TRL keeps them
            self._table = tracking.completions_table(shown, selection, self.scorer, sampling, extras)

    # ------------------------------------------------------------------ what the training loop sees

    def get_train_dataloader(self) -> DataLoader:
        """Ticks, one per micro-batch; an epoch is as many iterations as it takes to explore the dataset once."""
        if isinstance(self.train_dataset, Dataset):
            iterations = -(-len(self.train_dataset) // self.plan.num_queries)
            num_steps = iterations * self.plan.num_steps
        else:
            num_steps = self.args.max_steps
        shape = self.shape
        return Ticks(num_steps * shape.accumulation, shape.size * shape.processes, self.args.dataloader_num_workers)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, torch.Tensor]:
        """The next micro-batch of the iteration under way; explores first where a new one begins."""
        if self.batches is None or self.batches.is_done:
            self.batches = self._begin_iteration()
        batch = self.batches.next(
            self.accelerator.process_index,
            pad_token_id=self.sampler.tokenizer.pad_token_id,
            pad_to_multiple_of=getattr(self.args, "pad_to_multiple_of", None),
        )
        return {name: item.to(self.accelerator.device) for name, item in batch.items()}

    def _begin_iteration(self) -> TrainingBatches:
        if self.iteration == 0:
            self.inheritance.save_initial_weights()
        selection = self._run_iteration()
        if self.iteration > 0:
            self.inheritance.begin_improvement()
        samples = selection.rollouts.reader.read(selection.rollouts.rows_R)
        self.iteration += 1
        return TrainingBatches(samples, self.plan.num_steps, self.shape, self.rng)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Negative log-likelihood of the completions at T = 1, a mean over the tokens of the global batch."""
        if return_outputs:
            raise ValueError("the loss of BSTaRTrainer has no outputs to return")
        log_probs, aux_loss = completion_log_probs(self, model, inputs)
        # The gradient is averaged over processes and summed over accumulation steps.
        scale = self.accelerator.num_processes / inputs["num_tokens"]
        loss = -(log_probs * inputs["completion_mask"]).sum() * scale
        if aux_loss is not None:
            loss = loss + self.router_aux_loss_coef * aux_loss / self.args.gradient_accumulation_steps
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The parent's, for the horizon that `inheritance` asks for."""
        horizon = self.inheritance.horizon(num_training_steps, self.plan.num_steps)
        scheduler = super().create_scheduler(horizon, optimizer)
        self.inheritance.remember()
        return scheduler

    def add_callback(self, callback: Any) -> None:
        """The parent's; a `BalanceCallback` takes part in building the trainer, so it cannot come later."""
        if is_balance_callback(callback):
            raise ConfigurationError("a BalanceCallback must be passed to the trainer's constructor: callbacks=[...]")
        super().add_callback(callback)

    # ------------------------------------------------------------------ evaluation and logs

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Greedy and sampled metrics: `eval_greedy_pass@1`, `eval_pass@1` (mean over K samples at `args.temperature`, K
        being `num_generations_eval` or `num_generations`), `eval_pass@<K>`, `eval_pass@<K>-4` and `eval_reward`.

        With a dict of datasets the keys are `eval_<name>_...`. The training's random state is left alone.

        Args:
            eval_dataset (`Dataset`, `IterableDataset`, `dict` or `str`, *optional*):
                Rows to evaluate on, or the name of one of the trainer's; `None`: the trainer's.
            ignore_keys: not used; the parent's signature.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): of the keys.
        """
        figures: dict[str, float] = {}
        for suffix, dataset in evaluation_datasets(eval_dataset, self.eval_dataset).items():
            check_dataset("evaluation dataset", dataset, self.reward_funcs, self.args)
            figures |= self._evaluate_on(dataset, metric_key_prefix + suffix)
        return figures

    def _evaluate_on(self, dataset: Any, prefix: str) -> dict[str, float]:
        started = time.time()
        rows = dict(enumerate(self._columns_in_use(dataset)))
        with self.sampler.session():
            figures = evaluation_metrics(
                self._sampling(rows),
                list(rows),
                num_generations=self.args.num_eval_generations,
                temperature=self.args.temperature,
                seed=self.args.seed,
            )
        figures = {f"{prefix}_{name}": value for name, value in figures.items()}
        figures |= speed_metrics(prefix, started, num_samples=len(rows))
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """What the parent's `predict` asks for; a row of prompts has no prediction, and the training must not move."""
        raise UnsupportedOptionError("BSTaRTrainer has no predict(): evaluate() samples and scores a dataset's rows")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The parent's; every line of the training, the last one too, repeats the figures of its iteration."""
        if "loss" not in logs and "train_loss" not in logs:  # evaluation: nothing of the training belongs there
            Trainer.log(self, logs, start_time)
            return
        logs.update(self.figures)
        super().log(logs, start_time)
        if self._table is not None and self.accelerator.is_main_process:
            tracking.log_completions(self._table, self.args, self.state.global_step)
        self._table = None  # shown once per iteration

    # ------------------------------------------------------------------ checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The parent's; `resume_from_checkpoint=True` takes the last checkpoint that was written to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(str(self.args.output_dir)) or True
        # A run starts anew, also after another one; resuming loads what it goes on with.
        self.batches, self.iteration, self.figures = None, 0, {}
        self.balance.history = []
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.scorer.close()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = os.path.join(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        save_state(self, folder)
        super()._save_checkpoint(model, trial)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.sampler.weights_changed()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_state(self, checkpoint)

    def _columns_in_use(self, dataset: Any) -> Any:
        if self.args.remove_unused_columns:
            return self._remove_unused_columns(dataset, description="training")
        return dataset
