"""What the package needs of TRL is looked for by name and signature, and named where it is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import trl
from conftest import TESTS, make_trainer
from transformers import Trainer
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from bstar_trl.errors import UnsupportedOptionError, VersionError
from bstar_trl.training.policy import Policy
from bstar_trl.training.seams import SEAMS, TESTED, check_attributes, check_seams

REPOSITORY = TESTS.parent


@pytest.fixture
def unloaded(monkeypatch):
    """Fails if the parent's constructor begins, which loads the weights."""

    def load(*args, **kwargs):
        pytest.fail("a model was loaded before the seams were checked")

    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", load)


def test_this_trl_has_every_seam():
    check_seams()


@pytest.mark.parametrize("name", sorted({seam.name for seam in SEAMS if seam.of_trl and seam.name != "__init__"}))
def test_a_hook_that_trl_no_longer_has_is_named(tmp_path, model_path, monkeypatch, unloaded, name):
    """Also where transformers has a method of that name: it does something else."""
    monkeypatch.delattr(GRPOTrainer, name)
    with pytest.raises(VersionError, match=rf"GRPOTrainer\.{name} is missing.* TRL 1\.15\.0 and 1\.16\.0") as error:
        make_trainer(tmp_path, model_path)
    assert trl.__version__ in str(error.value)


@pytest.mark.parametrize("name", ["create_scheduler", "_load_best_model", "_remove_unused_columns", "_get_output_dir"])
def test_a_hook_that_transformers_no_longer_has_is_named(monkeypatch, name):
    monkeypatch.delattr(Trainer, name)
    with pytest.raises(VersionError, match=rf"GRPOTrainer\.{name} is missing"):
        check_seams()


def test_every_missing_hook_is_named(monkeypatch):
    monkeypatch.delattr(GRPOTrainer, "compute_loss")
    monkeypatch.delattr(VLLMGeneration, "sync_weights")
    monkeypatch.delattr("trl.models.utils.unwrap_model_for_generation")
    with pytest.raises(VersionError) as error:
        check_seams()
    for name in ("GRPOTrainer.compute_loss", "VLLMGeneration.sync_weights", "trl.models.utils.unwrap_model_for_gener"):
        assert f"{name}" in str(error.value)


def test_a_renamed_hook_is_named(monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_per_token_logps", GRPOTrainer._get_per_token_logps_and_entropies, raising=False)
    monkeypatch.delattr(GRPOTrainer, "_get_per_token_logps_and_entropies")
    with pytest.raises(VersionError, match="_get_per_token_logps_and_entropies is missing"):
        check_seams()


def test_a_missing_module_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl.generation.vllm_generation", None)
    with pytest.raises(VersionError, match=r"VLLMGeneration\.sync_weights is missing"):
        check_seams()


def one_more(self, model, input_ids, attention_mask, logits_to_keep, num_generations): ...
def one_less(self, model, input_ids, attention_mask): ...
def keywords_only(self, *, model, input_ids, attention_mask, logits_to_keep): ...
def one_more_option(self, model, input_ids, attention_mask, logits_to_keep, images=None): ...
def anything(self, *args, **kwargs): ...


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (one_more, "missing a required argument: 'num_generations'"),
        (one_less, "too many positional arguments"),
        (keywords_only, "too many positional arguments"),
        (one_more_option, None),
        (anything, None),
    ],
)
def test_a_signature_that_cannot_be_called_is_shown(monkeypatch, changed, said):
    changed.__module__ = "trl.trainer.grpo_trainer"
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", changed)
    if said is None:
        check_seams()
        return
    with pytest.raises(
        VersionError, match=r"GRPOTrainer\._get_per_token_logps_and_entropies\(self.*as before"
    ) as error:
        check_seams()
    assert said in str(error.value)


def test_a_constructor_without_an_argument_is_shown(monkeypatch):
    def init(self, model, reward_funcs=None, args=None, train_dataset=None): ...

    init.__module__ = "trl.trainer.grpo_trainer"
    monkeypatch.setattr(GRPOTrainer, "__init__", init)
    with pytest.raises(VersionError, match=r"GRPOTrainer\.__init__\(self, model.* 'eval_dataset'"):
        check_seams()


def test_attributes_of_a_built_trainer(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path)
    check_attributes(trainer)
    del trainer._dist
    with pytest.raises(VersionError, match=r"BSTaRTrainer\._dist is missing"):
        Policy(trainer, 8)


ENGINE = {
    "mode": "colocate",
    "repetition_penalty": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "max_completion_length": 8,
    "generation_kwargs": {},
    "structured_outputs_regex": None,
    "enable_sleep_mode": False,
    "tensor_parallel_size": 1,
    "llm": None,
    "_llm_weights_sleeping": False,
}


@pytest.mark.parametrize(
    ("engine", "missing"),
    [
        (ENGINE, None),
        ({**ENGINE, "mode": "server", "vllm_client": None}, None),
        ({**ENGINE, "mode": "server"}, "vllm_client"),
        ({name: value for name, value in ENGINE.items() if name != "llm"}, "llm"),
        ({name: value for name, value in ENGINE.items() if name != "top_p"}, "top_p"),
    ],
)
def test_attributes_of_the_engine(tmp_path, model_path, engine, missing):
    trainer = make_trainer(tmp_path, model_path)
    trainer.args.use_vllm = True
    with pytest.raises(VersionError, match=r"vllm_generation is missing; BSTaRTrainer\._last_loaded_step is missing"):
        check_attributes(trainer)
    trainer.vllm_generation, trainer._last_loaded_step = SimpleNamespace(**engine), -1
    del trainer.generation_kwargs  # with vLLM, TRL does not set it
    if missing is None:
        check_attributes(trainer)
    else:
        with pytest.raises(VersionError, match=rf"SimpleNamespace\.{missing} is missing"):
            check_attributes(trainer)


@pytest.mark.parametrize("place", ["trl.GRPOTrainer", "trl.trainer.grpo_trainer.GRPOTrainer"])
def test_unsloths_trainer_is_refused(monkeypatch, unloaded, tmp_path, model_path, place):
    """Unsloth puts a generated class of this name and module into TRL."""
    patched = type("UnslothGRPOTrainer", (GRPOTrainer,), {"__module__": "UnslothGRPOTrainer"})
    monkeypatch.setattr(place, type("GRPOTrainer", (patched,), {}))
    with pytest.raises(UnsupportedOptionError, match="Unsloth has replaced TRL's GRPOTrainer"):
        make_trainer(tmp_path, model_path)


def test_the_versions_tested_are_those_of_the_matrix():
    """The oldest in the Makefile, the newest in the constraints."""
    pinned = [*re.findall(r"trl==([\d.]+)", (REPOSITORY / "Makefile").read_text())]
    pinned += re.findall(r"^trl==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert tuple(sorted(set(pinned))) == TESTED


def test_importing_the_trainer_needs_no_hook():
    """A hook that is missing is an error of the check, which names it, not of an import."""
    script = """
import trl.models.utils as utils
import trl.trainer.grpo_trainer
del utils.unwrap_model_for_generation
import bstar_trl.training.policy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
