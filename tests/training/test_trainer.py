"""The iteration as a user sees it: what is learned from, what is sampled, what happens when nothing is found."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from conftest import has_digit, make_dataset, make_gpt2, make_model, make_tokenizer, make_trainer
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, TrainerCallback

from bstar_trl import BalanceCallback, BSTaRTrainer, Completion, Request, Rollouts, Selection, Setting
from bstar_trl.errors import BStarError, ConfigurationError, DatasetError, EmptySelectionError

LORA = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)


class Recorder(BSTaRTrainer):
    """Keeps the micro-batches of each step and the weights before it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps: list[tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]] = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self.steps or len(self.steps[-1][1]) == self.args.gradient_accumulation_steps:
            weights = {name: item.detach().clone() for name, item in self.model.named_parameters()}
            self.steps.append((weights, []))
        self.steps[-1][1].append({name: item.clone() for name, item in inputs.items()})
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def plain_cross_entropy(model: torch.nn.Module, batches: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Mean over the completion tokens of all batches, one unpadded sequence at a time, from the logits."""
    losses, tokens = [], 0
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            sequence = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            completion = sequence[-int(batch["completion_mask"][row].sum()) :]
            logits = model(input_ids=sequence[None]).logits[0, -len(completion) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits.double(), completion, reduction="sum"))
            tokens += len(completion)
    return torch.stack(losses).sum() / tokens


@pytest.mark.parametrize("temperature", [0.5, 1.4])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_loss_and_gradient_are_plain_cross_entropy(tmp_path, model_path, temperature, accumulation, lora):
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        callbacks=[BalanceCallback(temperatures=temperature)],
        peft_config=copy.deepcopy(LORA) if lora else None,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.0,
        max_steps=3,
        logging_steps=1,
    )
    trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert len(logged) == len(trainer.steps) == 3
    for line, (weights, batches) in zip(logged, trainer.steps, strict=True):
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
        if lora:
            model = get_peft_model(model, copy.deepcopy(LORA))
        model.load_state_dict(weights, strict=False)
        assert len(batches) == accumulation
        loss = plain_cross_entropy(model, batches)
        assert line["loss"] == pytest.approx(loss.item(), abs=1e-5)
        loss.backward()
        gradients = [item.grad.norm() for item in model.parameters() if item.grad is not None]
        assert line["grad_norm"] == pytest.approx(torch.stack(gradients).norm().item(), rel=1e-4)


def test_loss_of_a_model_with_position_embeddings(tmp_path):
    """Padding must not shift the positions: this model reads another sequence then."""
    rows = Dataset.from_dict({"prompt": ["1+1=", "1+2+3+4+5+6+7=", "2+2+2="]})
    trainer = make_trainer(
        tmp_path, make_gpt2(64), trainer=Recorder, processing_class=make_tokenizer(), train_dataset=rows, max_steps=2,
        logging_steps=1, max_grad_norm=0.0, max_completion_length=40, callbacks=[BalanceCallback(1.0)],
        reward_funcs=lambda completions, **kwargs: [1.0] * len(completions), num_generations=8,
    )  # fmt: skip
    trainer.train()
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    for loss, (weights, batches) in zip(logged, trainer.steps, strict=True):
        model = make_gpt2(64).eval()
        model.load_state_dict(weights, strict=False)
        assert any((batch["attention_mask"] == 0).any() for batch in batches)
        assert loss == pytest.approx(plain_cross_entropy(model, batches).item(), abs=1e-5)


def test_loss_covers_eos_and_leaves_out_the_prompt(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, trainer=Recorder, max_steps=2)
    trainer.train()
    eos = trainer.processing_class.eos_token_id
    for _, batches in trainer.steps:
        for batch in batches:
            lengths = batch["attention_mask"].sum(dim=1)
            assert (batch["input_ids"].gather(1, lengths[:, None] - 1) == eos).all()
            width = batch["completion_mask"].shape[1]
            for tokens, mask in zip(batch["input_ids"], batch["completion_mask"].bool(), strict=True):
                prompt = tokens[:-width].tolist() + tokens[-width:][~mask].tolist()
                text = trainer.processing_class.decode(prompt, skip_special_tokens=True)
                assert text in trainer.train_dataset["prompt"]
            assert batch["num_tokens"] == sum(item["completion_mask"].sum() for item in batches)


@pytest.mark.parametrize("generation_config", [{}, {"temperature": 0.1, "do_sample": True, "top_k": 2}])
def test_sampled_distribution_follows_each_request(tmp_path, generation_config):
    path = str(tmp_path / "policy")
    model = make_model(seed=3)
    model.generation_config.update(**generation_config)
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    trainer = make_trainer(tmp_path, path, max_completion_length=1, generation_chunk_size=600)
    temperatures, samples = (0.4, 1.0, 2.5), 3000
    prompt = "7+1="
    rows = {0: {"prompt": prompt}}
    requests = [Request((0,), temperature, samples, 5, rows) for temperature in temperatures]
    completions = list(trainer.policy.generate(requests))
    logits = model(torch.tensor([make_tokenizer()(prompt)["input_ids"]])).logits[0, -1].detach().double()
    entropies = []
    for temperature in temperatures:
        drawn = [item.token_ids[0] for item in completions if item.temperature == temperature]
        assert len(drawn) == samples
        share = np.bincount(drawn, minlength=len(logits)) / samples
        expected = torch.softmax(logits / temperature, dim=0).numpy()
        # Total variation of 3,000 draws from a known distribution over 26 tokens: about 0.03.
        assert np.abs(share - expected).sum() / 2 < 0.06
        entropies.append(-sum(p * math.log(p) for p in expected))
    assert entropies[0] < entropies[1] - 0.2 < entropies[2] - 0.4  # the three really differ


def test_same_seed_same_run_other_seed_other_run(tmp_path, model_path):
    losses = []
    for number, seed in enumerate([7, 7, 8]):
        trainer = make_trainer(tmp_path / str(number), model_path, seed=seed, max_steps=4, logging_steps=1)
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


class Watcher(BSTaRTrainer):
    """Keeps every round of requests and every selection."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rounds: list[list[Request]] = []
        self.selections: list[tuple[Rollouts, Setting, Selection]] = []

    def generate_responses(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.rounds.append(list(requests))
        yield from super().generate_responses(requests)

    def select_responses(self, rollouts: Rollouts, setting: Setting) -> Selection:
        selection = super().select_responses(rollouts, setting)
        self.selections.append((rollouts, setting, selection))
        return selection


def test_probe_is_part_of_the_exploration(tmp_path, model_path):
    temperatures = (0.5, 1.0, 1.5)
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Watcher,
        callbacks=[BalanceCallback(temperatures, num_queries=4, search="grid")],
        queries_per_iteration=10,
        max_steps=20,
        iteration_steps=10,
    )
    trainer.train()
    assert len(trainer.rounds) == 4  # two iterations: a probe and the rest, each one submission
    for iteration in range(2):
        probe, rest = trainer.rounds[2 * iteration : 2 * iteration + 2]
        assert [item.temperature for item in probe] == list(temperatures)
        probed = probe[0].query_ids
        assert len(probed) == 4
        assert all(item.query_ids == probed for item in probe)
        assert len(rest) == 1
        assert len(rest[0].query_ids) == 6
        assert not set(probed) & set(rest[0].query_ids)
        rollouts, setting, _ = trainer.selections[iteration]
        assert rest[0].temperature == setting.temperature
        assert set(rollouts.temperatures_R.tolist()) == {setting.temperature}
        assert len(rollouts) == 10 * 3
        entry = trainer.balance.history[iteration]
        assert entry["balance/temperature"] == setting.temperature
        assert entry["balance/threshold"] == setting.threshold
        assert entry["balance/probe_completions"] == 3 * 4 * 3
        assert entry["balance/extra_completions"] == 2 * 4 * 3
        assert entry["balance/probe_seconds"] > 0


def test_slices_and_rounds_sample_nothing_in_vain(tmp_path, model_path):
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Watcher,
        callbacks=[BalanceCallback((0.5, 1.0, 1.5), num_queries=6)],
        train_dataset=make_dataset(40),
        num_generations=10,
        queries_per_iteration=40,
        balance_target=2.0,
        iteration_steps=5,
        max_steps=15,
    )
    trainer.train()
    rounds = iter(trainer.rounds)
    for (rollouts, setting, _), entry in zip(trainer.selections, trainer.balance.history, strict=True):
        sliced, first = next(rounds), next(rounds)
        assert [request.temperature for request in sliced] == [0.5, 1.0, 1.5]
        in_slices = [query for request in sliced for query in request.query_ids]
        assert len(in_slices) == len(set(in_slices)) == 6
        assert {request.n for request in sliced} == {10}
        assert {request.temperature for request in first} == {setting.temperature}
        assert [request.n for request in first] == [10, 4]
        even, others = (list(request.query_ids) for request in first)
        at_winner = next(request for request in sliced if request.temperature == setting.temperature)
        assert len(even) == 24 - len(at_winner.query_ids)
        assert len(set(in_slices + even + others)) == 40
        for size, tries in ((4, 4), (2, 8)):  # K = 10: rounds of 4, 4 and 2
            grids = rollouts.take(np.isin(rollouts.query_ids_R, others)).grids
            good = grids.selectable_NK & grids.correct_NK & (grids.rewards_NK > setting.threshold)
            asked = rollouts.query_ids_R[np.isin(rollouts.query_ids_R, others)][grids.index_NK[:, 0]]
            going = sorted(asked[good[:, :tries].sum(axis=1) < 2].tolist())
            if going:
                (request,) = next(rounds)
                assert (sorted(request.query_ids), request.n) == (going, size)
        assert entry["balance/extra_completions"] == 0
        assert entry["balance/saved_completions"] == 400 - len(rollouts) > 0
        assert 0 <= entry["balance/score_se"] < 0.5
    assert next(rounds, None) is None
    logged = trainer.state.log_history[-1]
    assert "explore/pass@10" in logged
    assert logged["explore/temperature"] == setting.temperature
    k_queries = [*at_winner.query_ids, *even]
    rewards = [rollouts.rewards_R[rollouts.query_ids_R == query] for query in k_queries]
    assert {len(item) for item in rewards} == {10}
    assert logged["frac_reward_zero_std"] == np.mean([len(set(item)) == 1 for item in rewards])


def watched(tmp_path, model_path, **changes) -> Watcher:
    """One iteration of 40 queries, enough for rounds."""
    settings = {"num_generations": 8, "queries_per_iteration": 40, "iteration_steps": 3, "max_steps": 3, **changes}
    trainer = make_trainer(tmp_path, model_path, trainer=Watcher, train_dataset=make_dataset(40), **settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize("num_generations", [2, 4])
def test_few_responses_come_without_rounds(tmp_path, model_path, num_generations):
    trainer = watched(
        tmp_path,
        model_path,
        callbacks=[BalanceCallback((0.7, 1.1), reinvest="hard")],
        num_generations=num_generations,
    )
    assert {request.n for requests in trainer.rounds for request in requests} == {num_generations}
    assert len(trainer.selections[0][0]) == 40 * num_generations
    assert trainer.balance.history[0]["balance/saved_completions"] == 0


@pytest.mark.parametrize("scored", [False, True])
def test_rounds_are_for_verifiers_alone(tmp_path, model_path, scored):
    def length(completions, **kwargs):
        return [len(text) / 100 for text in completions]

    trainer = watched(
        tmp_path,
        model_path,
        reward_funcs=[has_digit, length] if scored else [has_digit],
        verifier="has_digit",
        callbacks=[BalanceCallback(0.7)],
    )
    assert [request.n for request in trainer.rounds[0]] == ([8] if scored else [8, 4])


def test_a_threshold_raised_after_the_rounds_is_kept_to(tmp_path, model_path):
    class Strict(BalanceCallback):
        def settle(self, exploration):
            setting = super().settle(exploration)
            return Setting(setting.temperature, setting.threshold + 0.5, setting.score)

    def length(completions, **kwargs):
        return [len(text) / 8 for text in completions]

    trainer = watched(
        tmp_path,
        model_path,
        reward_funcs=[has_digit, length],
        verifier="has_digit",
        callbacks=[Strict((0.7, 1.1), num_queries=4, allocation="rounds")],
    )
    rollouts, setting, selection = trainer.selections[0]
    assert trainer.balance.history[0]["balance/threshold"] == setting.threshold
    assert (selection.rollouts.rewards_R > setting.threshold).all()
    available = (rollouts.grids.selectable_NK & (rollouts.grids.rewards_NK > setting.threshold)).sum()
    logged = trainer.state.log_history[-1]
    assert logged["select/available"] == available == len(selection) < selection.wanted
    assert logged["select/shortfall"] == selection.wanted - available


def test_static_callback_probes_nothing(tmp_path, model_path):
    balance = BalanceCallback(0.9, 0.25, allocation="fixed")
    trainer = make_trainer(tmp_path, model_path, trainer=Watcher, callbacks=[balance], max_steps=18)
    trainer.train()
    assert [[item.temperature for item in requests] for requests in trainer.rounds] == [[0.9], [0.9]]
    for entry in trainer.balance.history:
        assert (entry["balance/temperature"], entry["balance/threshold"]) == (0.9, 0.25)
        assert entry["balance/probe_completions"] == entry["balance/extra_completions"] == 0


def test_selection_is_what_the_method_says(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, trainer=Watcher, max_steps=9)
    trainer.train()
    rollouts, setting, selection = trainer.selections[0]
    chosen = selection.rollouts
    assert len(selection) == len(chosen) <= selection.wanted == 26  # n* = 1.5 of K = 3, 17 queries
    assert (chosen.rewards_R > setting.threshold).all()
    assert chosen.ended_R.all()
    texts = [(item.query_id, item.text.rstrip()) for item in chosen.reader.read(chosen.rows_R)]
    assert len(set(texts)) == len(texts)
    arrays = rollouts.grids
    qualified = (arrays.selectable_NK & (arrays.rewards_NK > setting.threshold)).sum()
    assert len(selection) == min(26, qualified)


def test_lines_repeat_the_iteration_and_none_is_missing(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, max_steps=27, logging_steps=4)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert {line["step"] for line in lines} == {4, 8, 9, 12, 16, 18, 20, 24, 27}
    for line in lines:
        entry = trainer.balance.history[(line["step"] - 1) // 9]
        assert {name: line[name] for name in entry} == entry
        assert line["explore/temperature"] == line["balance/temperature"]
        assert {"reward", "rewards/has_digit/mean", "explore/pass@1", "select/samples"} <= line.keys()
        assert not any(isinstance(value, float) and math.isnan(value) for value in line.values())


def never(completions, **kwargs):
    """A verifier that nothing satisfies."""
    return [0.0] * len(completions)


def test_three_empty_rounds_raise_and_no_weight_moves(tmp_path, model_path, caplog):
    trainer = make_trainer(tmp_path, model_path, trainer=Watcher, reward_funcs=never, weight_decay=0.1)
    before = {name: item.detach().clone() for name, item in trainer.model.named_parameters()}
    with pytest.raises(
        EmptySelectionError, match=r"3 rounds in a row.*no response of 51 was correct.*num_generations"
    ):
        trainer.train()
    assert len(trainer.selections) == 3
    assert trainer.state.global_step == 0
    assert all(torch.equal(item, before[name]) for name, item in trainer.model.named_parameters())
    assert "Exploring the next queries" in caplog.text


def test_an_empty_round_is_followed_by_the_next_queries(tmp_path, model_path):
    rounds = iter([never, has_digit, never, has_digit])
    current: list = [None]

    def sometimes(completions, trainer_state, **kwargs):
        return current[0](completions)

    class Switching(Watcher):
        def generate_responses(self, requests):
            current[0] = next(rounds)
            yield from super().generate_responses(requests)

    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Switching,
        reward_funcs=sometimes,
        callbacks=[BalanceCallback(1.0, allocation="fixed")],
        queries_per_iteration=8,
        max_steps=8,
        iteration_steps=4,
    )
    trainer.train()
    assert trainer.state.global_step == 8
    asked = [requests[0].query_ids for requests in trainer.rounds]
    assert len(asked) == 4
    assert not set(asked[0]) & set(asked[1])
    assert [entry["balance/extra_completions"] for entry in trainer.balance.history] == [24, 24]


def test_responses_cut_off_are_never_selected(tmp_path, model_path):
    def right(completions, **kwargs):
        return [1.0] * len(completions)

    never_ends = {"suppress_tokens": [1]}  # EOS
    trainer = make_trainer(tmp_path, model_path, reward_funcs=right, generation_kwargs=never_ends)
    with pytest.raises(EmptySelectionError, match=r"all 51 responses were cut off at max_completion_length=8"):
        trainer.train()


def test_a_hook_that_loses_responses_is_told(tmp_path, model_path):
    class Losing(BSTaRTrainer):
        def generate_responses(self, requests):
            responses = list(super().generate_responses(requests))
            return iter(responses[1:])

    trainer = make_trainer(tmp_path, model_path, trainer=Losing)
    with pytest.raises(BStarError, match=r"every response that was requested: got 2 of query \d+ .* expected 3"):
        trainer.train()


def test_subclass_chooses_what_is_learned(tmp_path, model_path):
    class Shortest(BSTaRTrainer):
        def select_responses(self, rollouts, setting):
            ended = np.flatnonzero(rollouts.ended_R)
            return Selection(rollouts.take(ended[np.argsort(rollouts.lengths_R[ended], kind="stable")][:2]), 2)

    trainer = make_trainer(tmp_path, model_path, trainer=Shortest, max_steps=2, logging_steps=1)
    trainer.train()
    assert trainer.figures["select/samples"] == 2


def test_no_checkpoint_step_leaves_the_parents_options_as_the_user_set_them(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, temperature=0.7, max_steps=1)
    assert trainer.args.temperature == 0.7
    trainer.train()
    assert trainer.args.to_dict()["temperature"] == 0.7


class StepCounter(TrainerCallback):
    """Counts, as a user's own callback would."""

    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


@pytest.mark.parametrize("given", ["instance", "class", "none"])
def test_one_balance_callback_however_it_is_given(tmp_path, model_path, given):
    counter = StepCounter()
    balance = {"instance": [BalanceCallback()], "class": [BalanceCallback], "none": []}[given]
    trainer = make_trainer(tmp_path, model_path, callbacks=[counter, *balance], max_steps=10)
    trainer.train()
    found = [item for item in trainer.callback_handler.callbacks if isinstance(item, BalanceCallback)]
    assert found == [trainer.balance]
    assert counter.steps == 10
    assert len(trainer.balance.history) == 2


def test_lora_weights_change_and_the_base_does_not(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, peft_config=copy.deepcopy(LORA), max_steps=4)
    before = {name: item.detach().clone() for name, item in trainer.model.named_parameters()}
    trainer.train()
    for name, item in trainer.model.named_parameters():
        assert torch.equal(item, before[name]) != ("lora_" in name), name


def test_saved_adapter_loads_with_peft_alone(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, peft_config=copy.deepcopy(LORA), max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    from safetensors.torch import load_file

    saved = load_file(str(tmp_path / "adapter" / "adapter_model.safetensors"))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_path), copy.deepcopy(LORA))
    assert not set_peft_model_state_dict(model, saved).unexpected_keys
    tokens = torch.tensor([[3, 4, 5]])
    trainer.model.eval()
    expected = trainer.model(tokens).logits
    torch.testing.assert_close(model.eval()(tokens).logits, expected)


def test_dataset_order_is_kept_without_shuffling(tmp_path, model_path):
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Watcher,
        train_dataset=make_dataset(17),
        shuffle_dataset=False,
        callbacks=[BalanceCallback(1.0, allocation="fixed")],
        queries_per_iteration=8,
        max_steps=3,
        iteration_steps=1,
    )
    trainer.train()
    asked = [requests[0].query_ids for requests in trainer.rounds]
    assert asked == [tuple(range(8)), tuple(range(8, 16)), (16, *range(7))]


def test_a_second_run_explores_anew(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, trainer=Watcher, iteration_steps=3, max_steps=4)
    trainer.train()
    rounds = len(trainer.selections)
    assert rounds == 2
    trainer.train()
    assert len(trainer.selections) == 4  # not the two steps that the first run had left over
    assert len(trainer.balance.history) == 2
    assert [line["iteration"] for line in trainer.state.log_history if line.get("step") == 3] == [0.0]


def test_a_balance_callback_cannot_come_later(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path)
    for late in (BalanceCallback, BalanceCallback(1.0)):
        with pytest.raises(ConfigurationError, match="constructor"):
            trainer.add_callback(late)


def test_uneven_exploration_logs_no_figures_of_k(tmp_path, model_path):
    class Uneven(BalanceCallback):
        def explore(self, sample, queries):
            half = len(queries) // 2
            few, many = (tuple(queries[:half]), tuple(queries[half:]))
            return sample([Request(few, 1.0, 1, 1), Request(many, 1.0, 3, 2)])

    def right(completions, **kwargs):
        return [1.0] * len(completions)

    trainer = make_trainer(tmp_path, model_path, reward_funcs=right, callbacks=[Uneven()], max_steps=1)
    trainer.train()
    assert trainer.figures["explore/pass@1"] == 1.0
    assert not {"explore/pass@3", "explore/best_of_3", "explore/distinct"} & trainer.figures.keys()


def test_a_selection_that_is_none_is_told(tmp_path, model_path):
    class Forgetful(BSTaRTrainer):
        def select_responses(self, rollouts, setting):
            super().select_responses(rollouts, setting)

    with pytest.raises(BStarError, match="must return a Selection, got NoneType"):
        make_trainer(tmp_path, model_path, trainer=Forgetful).train()


@pytest.mark.parametrize("prompt", ["", None])
def test_a_query_without_a_prompt_is_named(tmp_path, model_path, prompt):
    rows = make_dataset(5).to_list()
    rows[3]["prompt"] = prompt
    dataset = Dataset.from_list(rows)
    with pytest.raises(DatasetError, match="the prompt of row 3 of the training dataset is empty"):
        make_trainer(tmp_path, model_path, train_dataset=dataset)
    stream = dataset.to_iterable_dataset()
    trainer = make_trainer(
        tmp_path, model_path, train_dataset=stream, max_steps=1, queries_per_iteration=5, shuffle_dataset=False
    )
    with pytest.raises(DatasetError, match="the prompt of query 3 is empty"):
        trainer.train()


def test_a_tokenizer_without_eos_is_refused(tmp_path, model_path):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match="needs an EOS token"):
        make_trainer(tmp_path, model_path, processing_class=tokenizer)


def test_a_second_run_with_the_same_weights_is_the_first_again(tmp_path, model_path):
    """Queries, ties, order of batches, setting and seeds of samples: nothing of the first run is left over."""
    trainer = make_trainer(
        tmp_path,
        model_path,
        callbacks=[BalanceCallback([0.7, 1.2], num_queries=4)],
        queries_per_iteration=8,
        iteration_steps=3,
        max_steps=7,
        logging_steps=1,
    )
    initial = {name: item.clone() for name, item in trainer.model.state_dict().items()}
    runs = []
    for _ in range(2):
        trainer.model.load_state_dict(initial)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.train()
        history = [entry | {"balance/probe_seconds": 0.0} for entry in trainer.balance.history]
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        runs.append((history, losses, {name: item.clone() for name, item in trainer.model.state_dict().items()}))
    first, second = runs
    assert len(first[0]) == 3
    assert second[:2] == first[:2]
    assert all(torch.equal(item, first[2][name]) for name, item in second[2].items())


def test_a_row_is_read_once_per_round_and_travels_with_its_request(tmp_path, model_path):
    class Recorder(BSTaRTrainer):
        def generate_responses(self, requests):
            for request in requests:
                assert {name: row["prompt"] for name, row in request.rows.items()} == {
                    query_id: f"{query_id % 10}+{query_id % 7}=" for query_id in request.query_ids
                }
            yield from super().generate_responses(requests)

    trainer = make_trainer(
        tmp_path, model_path, trainer=Recorder, callbacks=[BalanceCallback([0.7, 1.0], num_queries=4)], max_steps=9
    )
    reads: list[int] = []

    class Counting(type(trainer.queries)):
        def __getitem__(self, query_id):
            reads.append(query_id)
            return super().__getitem__(query_id)

    trainer.queries.__class__ = Counting
    trainer.train()
    # One iteration of 17 queries, 4 of them probed at two temperatures in one round; then the 13 others.
    assert sorted(reads) == list(range(17))


def test_a_balance_may_return_bare_rollouts_and_a_setting_without_a_score(tmp_path, model_path):
    class Bare(BalanceCallback):
        def explore(self, sample, queries):
            return sample([Request(tuple(queries), 0.9, self.num_generations, 7)])

        def settle(self, exploration):
            assert exploration.temperature == 0.9
            return Setting(exploration.temperature, threshold=0.5)

    trainer = make_trainer(tmp_path, model_path, callbacks=[Bare()], max_steps=9)
    trainer.train()
    (entry,) = trainer.balance.history
    assert (entry["balance/temperature"], entry["balance/threshold"], entry["balance/score"]) == (0.9, 0.5, 0.0)
    assert entry["balance/probe_completions"] == entry["balance/extra_completions"] == 0
    assert trainer.balance.setting == Setting(0.9, 0.5)


@pytest.mark.parametrize("hook", ["explore", "settle"])
def test_a_balance_that_returns_something_else_is_named(tmp_path, model_path, hook):
    wrong = type("Wrong", (BalanceCallback,), {hook: lambda self, *arguments: None})
    trainer = make_trainer(tmp_path, model_path, callbacks=[wrong()])
    with pytest.raises(BStarError, match=rf"{hook} must return .*, got NoneType"):
        trainer.train()
