"""`BSTaRTrainer`: GRPO's trainer, turned into balanced self-taught reasoning."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, speed_metrics
from trl import GRPOTrainer
from trl.data_utils import is_conversational

from ..config import BSTaRConfig
from ..errors import ConfigurationError, UnsupportedOptionError
from ..records import Completion, Request, Rollouts, Rows, Selection, Setting
from ..reports.table import LiveTable
from ..rollouts.judging import Verifiers
from ..rollouts.queries import make_queries
from ..rollouts.round import Sampler
from ..rollouts.scoring import Scorer
from ..selection import select
from .batches import BatchShape, Ticks, TrainingBatches
from .checks import check_dataset, check_trainable, is_balance_callback, prepare
from .citation import PAPER
from .costs import Stopwatch
from .evaluation import Evaluated, evaluation_datasets, evaluation_metrics, sample_evaluation
from .inheritance import Inheritance
from .iteration import Iteration, run_iteration
from .model_card import Run, complete_card, facts_of
from .monitoring import Monitor
from .policy import Policy
from .progress import explain_empty, with_progress
from .run_state import RunState, last_whole_checkpoint, steps_of

logger = logging.getLogger(__name__)


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

    Methods of the parents that are overridden, and why: `get_train_dataloader` (yields placeholders),
    `_prepare_inputs` (explores at an iteration's start, then serves its micro-batches), `compute_loss` (a likelihood),
    `evaluate` (metrics per query), `prediction_step` (refused), `log` (adds the iteration's figures),
    `create_scheduler` (the horizon depends on `inheritance`), `add_callback` (a balance comes with the constructor),
    `train`, `_save_checkpoint` and `_load_optimizer_and_scheduler` (resuming), `_load_best_model` (tells the engine),
    `create_model_card` (adds the run's figures).

    Raises:
        ConfigurationError: options that cannot work, before any weight is loaded.
        DatasetError: the dataset lacks a reward's column.
        RewardError: a reward function returned no reward; at the first batch that shows it.
        EmptySelectionError: three rounds in a row selected nothing.
        OutOfMemoryError: half a chunk of responses does not fit into memory.
        SamplingError: the model's logits are NaN or infinite.
    """

    args: BSTaRConfig
    _tag_names = ["trl", "bstar"]  # noqa: RUF012 - the parent declares it so
    _name = "B-STaR"
    _paper = PAPER
    _is_done = False  # whether the checkpoint that a training resumes from is its end

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
        prepared = prepare(
            model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset,
            callbacks,
            unsupported={"tools": tools, "rollout_func": rollout_func, "environment_factory": environment_factory},
            quantization_config=quantization_config,
        )
        self.balance, self.plan = prepared.balance, prepared.plan
        with prepared.args.as_parent_sees_it():
            super().__init__(
                model=model,
                reward_funcs=prepared.reward_funcs,
                args=prepared.args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=prepared.callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        # The parent prints and saves its own table of completions and advantages; ours says what was selected.
        self.log_completions = False
        self._training_time = Stopwatch()  # of the current iteration, without evaluations
        self._build_parts(prepared.verifiers)
        self._set_up_tables()
        self._monitor = Monitor(
            self.args, lambda: self.iteration, self._described, lambda: self.callback_handler.callbacks
        )
        super().add_callback(self._monitor.recorder)

    def _described(self) -> dict[str, Any]:
        """What the run is, beyond `args`."""
        return {
            "balance": self.balance.options,
            "plan": dataclasses.asdict(self.plan),
            "rewards": facts_of(Run.of(self, None))["Rewards"],
        }

    def _build_parts(self, verifiers: Verifiers) -> None:
        args = self.args
        self.policy = Policy(self, args.chunk_size)
        check_trainable(self.policy.model)
        self.scorer = Scorer(
            self.reward_funcs,
            self.reward_func_names,
            weights=self.reward_weights.tolist(),
            verifiers=verifiers,
            tokenizers=self.reward_processing_classes,
            chat_template_kwargs=self.policy.template_kwargs,
            batch_size=args.per_device_eval_batch_size,
        )
        self.inheritance = Inheritance(args.inheritance, str(args.output_dir), self.policy.sharding)
        dataset = self._columns_in_use(self.train_dataset)
        self.queries = make_queries(dataset, shuffle=bool(args.shuffle_dataset), seed=args.seed)
        accumulation, batch_size = args.gradient_accumulation_steps, args.per_device_train_batch_size
        shape = BatchShape(accumulation, self.accelerator.num_processes, batch_size)
        self.run_state = RunState(self.queries, self.balance, np.random.default_rng([args.seed, 2]), shape)

    @property
    def iteration(self) -> int:
        """Iterations begun."""
        return self.run_state.iteration

    @cached_property
    def prompts_are_messages(self) -> bool:
        """Whether the training prompts are conversations, by the first row, which is read once."""
        return bool(is_conversational(next(iter(self.train_dataset))))  # type: ignore[arg-type]

    @property
    def figures(self) -> dict[str, float]:
        """The current iteration's figures, under the names of the logs."""
        return self.run_state.figures

    # ------------------------------------------------------------------ the iteration

    def generate_responses(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Sample every response that this process is asked for, in any order: a hook for subclasses.

        Called once per round of [`BalanceCallback.explore`] and once per evaluation; several temperatures come in one
        call. Responses are scored in chunks while later ones are sampled.

        Args:
            requests (`Sequence[Request]`):
                Query ids, temperature (0: greedy), responses per query, seed, and the dataset rows of the queries;
                requests without rows are about the training dataset.

        Returns:
            An iterable of `Completion`: `n` per query and request.
        """
        requests = [request if request.rows else request.with_rows(self.queries) for request in requests]
        shown = self.accelerator.is_main_process and not self.args.disable_tqdm
        yield from with_progress(self.policy.generate(requests), requests, shown=shown)

    def select_responses(self, rollouts: Rollouts, setting: Setting) -> Selection:
        """Choose what the iteration trains on: a hook for subclasses.

        Keeps selectable responses whose reward exceeds the threshold, at most as many per query as it takes to reach
        `samples_per_iteration`, the best rewards first; none of a verifier that calls none of them correct.

        Args:
            rollouts (`Rollouts`): all responses of the iteration's exploration, the same on every process.
            setting (`Setting`): the iteration's temperature and threshold.
        """
        grids, threshold = rollouts.grids, setting.threshold
        candidates_NK = self.scorer.verifiers.candidates(rollouts, threshold)
        budget, rng = self.plan.num_samples, self.run_state.rng
        chosen_M2 = select(grids.rewards_NK, candidates_NK, threshold, budget=budget, rng=rng)
        return Selection(rollouts.take(grids.index_NK[tuple(chosen_M2.T)]), self.plan.num_samples)

    def _track(self, found: Iteration) -> None:
        self.state.num_input_tokens_seen += found.cost.num_tokens
        self.run_state.figures = {
            **found.figures,
            **self.balance.record(found.setting, found.exploration, found.cost.num_sampled),
            "iteration": float(self.iteration),
            "num_tokens": float(self.state.num_input_tokens_seen),
        }
        table = None
        if self.args.log_completions:
            table, self._logs["extra"] = found.table(self.args.chunk_size)  # where TRL keeps them
        self._monitor.add(self.iteration, found.details(self.policy.tokenizer.decode), table)

    def _sampler(self, rows: Rows, *, with_chance: bool = False) -> Sampler:
        return Sampler(
            self.generate_responses,
            self.scorer,
            rows,
            accelerator=self.accelerator,
            chunk_size=self.args.chunk_size,
            trainer_state=self.state,
            with_chance=with_chance,
        )

    # ------------------------------------------------------------------ what the training loop sees

    def get_train_dataloader(self) -> DataLoader:
        """Ticks, one per micro-batch; one epoch explores the dataset once."""
        dataset: Any = self.train_dataset
        is_stream = isinstance(dataset, IterableDataset)
        num_steps = self.args.max_steps if is_stream else self.plan.epoch_steps(len(dataset))
        if self._is_done:
            num_steps = 0  # transformers would train a step more
        shape = self.run_state.shape
        return Ticks(num_steps * shape.accumulation, shape.size * shape.processes, self.args.dataloader_num_workers)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, torch.Tensor]:
        """The next micro-batch of the current iteration; a new iteration explores first."""
        batches = self.run_state.batches
        if batches is None or batches.is_done:
            batches = self.run_state.batches = self._begin_iteration()
        batch = batches.next(
            self.accelerator.process_index,
            pad_token_id=self.policy.tokenizer.pad_token_id,
            pad_to_multiple_of=getattr(self.args, "pad_to_multiple_of", None),
        )
        return {name: item.to(self.accelerator.device) for name, item in batch.items()}

    def _begin_iteration(self) -> TrainingBatches:
        model = self.policy.model
        if self.iteration == 0:
            self.inheritance.save_initial_weights(model, self.accelerator)
        found = run_iteration(
            self.iteration,
            self.balance,
            next_queries=lambda: self.queries.take(self.plan.num_queries),
            make_sampler=lambda: self._sampler(self.queries, with_chance=self.balance.estimates_chance),
            session=self.policy.session,
            select=self.select_responses,
            explain=lambda rollouts, setting: explain_empty(rollouts, setting, self.scorer.verifiers, self.args),
        )
        self._track(found)
        if self.iteration > 0 and self.inheritance.begin_improvement(model, self.optimizer, self.lr_scheduler):
            self.policy.weights_changed()
        chosen = found.selection.rollouts
        samples = chosen.reader.read(chosen.rows_R)
        self.run_state.iteration += 1
        self._training_time.start()
        return TrainingBatches(samples, self.plan.num_steps, self.run_state.shape, self.run_state.rng)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Negative log-likelihood of the completions at T = 1, a mean over the tokens of the global batch."""
        if return_outputs:
            raise ValueError("the loss of BSTaRTrainer has no outputs to return")
        log_probs, aux_loss = self.policy.log_probs(model, inputs)
        scale = self.accelerator.num_processes / inputs["num_tokens"]  # processes are averaged, accumulation is summed
        loss = -(log_probs * inputs["completion_mask"]).sum() * scale
        if aux_loss is not None:
            loss = loss + self.router_aux_loss_coef * aux_loss / self.args.gradient_accumulation_steps
            self._metrics["train"]["aux_loss"].append(self.accelerator.gather(aux_loss.detach()).mean().item())
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The parent's, for the horizon that `inheritance` asks for."""
        horizon = self.inheritance.horizon(num_training_steps, self.plan.num_steps)
        scheduler = super().create_scheduler(horizon, optimizer)
        self.inheritance.remember(self.optimizer, scheduler)
        return scheduler

    def add_callback(self, callback: Any) -> None:
        """The parent's; a `BalanceCallback` takes part in building the trainer, so it cannot come later."""
        if is_balance_callback(callback):
            raise ConfigurationError("a BalanceCallback must be passed to the trainer's constructor: callbacks=[...]")
        super().add_callback(callback)
        self._set_up_tables()

    def _set_up_tables(self) -> None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, LiveTable):
                callback.setup(self.plan.num_steps, self.args.num_generations)

    # ------------------------------------------------------------------ evaluation and logs

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Greedy and sampled metrics: `eval_greedy_pass@1`, `eval_pass@1` (mean over K samples at `args.temperature`, K
        being `num_generations_eval` or `num_generations`), `eval_pass@<K>`, `eval_pass@<K>-4`, and TRL's of rewards
        and lengths: `eval_reward`, `eval_rewards/<name>/mean`, `eval_completions/mean_length`, ...

        With a dict of datasets the keys are `eval_<name>_...`. The training's random state is left alone.

        Args:
            eval_dataset (`Dataset`, `IterableDataset`, `dict` or `str`, *optional*):
                Rows to evaluate on, or the name of one of the trainer's; `None`: the trainer's.
            ignore_keys: without effect.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): how the keys begin.
        """
        figures: dict[str, float] = {}
        for suffix, dataset in evaluation_datasets(eval_dataset, self.eval_dataset).items():
            check_dataset("evaluation dataset", dataset, self.reward_funcs, self.args, self.scorer.verifiers)
            with self._training_time.stopped():
                figures |= self._evaluate_on(dataset, metric_key_prefix + suffix)
        return figures

    def _evaluate_on(self, dataset: Any, prefix: str) -> dict[str, float]:
        started = time.time()
        evaluated, sampler = self.sample_evaluation(dataset)
        figures = {f"{prefix}_{name}": value for name, value in evaluation_metrics(evaluated, sampler).items()}
        num_rows = len(evaluated.greedy)
        num_steps = -(-num_rows // self.args.per_device_eval_batch_size)
        figures |= speed_metrics(prefix, started, num_samples=num_rows, num_steps=num_steps)
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def sample_evaluation(self, dataset: Any) -> tuple[Evaluated, Sampler]:
        """The responses that [`evaluate`] measures, and the sampler that has their texts. A collective.

        Args:
            dataset (`Dataset` or `IterableDataset`): rows with a prompt, and what the reward functions need.
        """
        rows = dict(enumerate(self._columns_in_use(dataset)))
        sampler, args = self._sampler(rows), self.args
        with self.policy.session():
            evaluated = sample_evaluation(
                sampler,
                list(rows),
                num_generations=args.num_eval_generations,
                temperature=args.temperature,
                seed=args.seed,
            )
        return evaluated, sampler

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the parent's `predict` would need it, and a row of prompts has no prediction."""
        raise UnsupportedOptionError("BSTaRTrainer has no predict(): evaluate() samples and scores a dataset's rows")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The parent's; each line of the training, and none of an evaluation, repeats the iteration's figures."""
        if "loss" not in logs and "train_loss" not in logs:
            Trainer.log(self, logs, start_time)
            return
        if aux_losses := self._metrics["train"].pop("aux_loss", None):
            self.figures["aux_loss"] = float(np.mean(aux_losses))
        if self.figures and "loss" in logs:  # the line that ends a training repeats its last step's
            self.figures["cost/training_seconds"] = self._training_time.seconds
        logs.update(self.figures)
        super().log(logs, start_time)
        self._monitor.logged(self.state.global_step, is_main=self.accelerator.is_main_process)

    # ------------------------------------------------------------------ checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The parent's; `resume_from_checkpoint=True` takes the last checkpoint that was written to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(str(self.args.output_dir))
        done = steps_of(resume_from_checkpoint) if isinstance(resume_from_checkpoint, str) else 0
        self._is_done = 0 < self.args.max_steps <= done
        if self._is_done:
            logger.warning("%s is the end of its run: a larger max_steps trains on.", resume_from_checkpoint)
        self.run_state.reset()  # so that a second `train()` does not continue the first
        self.policy.weights_changed()  # the first may have ended with a step that its engine has not seen
        if self.is_world_process_zero():
            self._monitor.recorder.begin(facts_of(Run.of(self, None)))
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.scorer.close()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.run_state.save(os.path.join(self._get_output_dir(trial=trial), folder))
        super()._save_checkpoint(model, trial)

    def create_model_card(  # type: ignore[override]  # TRL's has fewer
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """The parent's draft in `output_dir/README.md`, and what this run was and found."""
        folder = Path(str(self.args.output_dir))
        on_hub = (
            None if dataset_name is not None and Path(dataset_name).exists() else dataset_name
        )  # a file has no page
        super().create_model_card(model_name or (self.hub_model_id or folder.name).split("/")[-1], on_hub, tags)
        if self.is_world_process_zero():
            complete_card(folder / "README.md", Run.of(self, dataset_name))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.policy.weights_changed()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.run_state.load(checkpoint)
            self._training_time.start(self.figures.get("cost/training_seconds", 0.0))
            self.inheritance.resume(checkpoint)

    def _columns_in_use(self, dataset: Any) -> Any:
        unused = self.args.remove_unused_columns
        return self._remove_unused_columns(dataset, description="training") if unused else dataset
