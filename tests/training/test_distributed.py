"""Two real processes: each samples and scores its share, and both train on one selection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TESTS


def main(output_dir: str, model_path: str) -> None:
    """What each process runs."""
    from conftest import has_digit, make_dataset, make_trainer
    from test_trainer import Recorder, plain_cross_entropy
    from transformers import AutoModelForCausalLM

    from bstar_trl import BalanceCallback

    calls = []

    def counted(completions, **kwargs):
        calls.append(len(completions))
        return has_digit(completions)

    trainer = make_trainer(
        output_dir,
        model_path,
        trainer=Recorder,
        reward_funcs=counted,
        callbacks=[BalanceCallback([0.7, 1.2], num_queries=4)],
        train_dataset=make_dataset(60),
        eval_dataset=make_dataset(5),
        num_generations=8,
        queries_per_iteration=36,
        iteration_steps=3,
        max_steps=6,
        gradient_accumulation_steps=2,
        logging_steps=1,
        inheritance="restart",
    )
    trainer.train()
    figures = trainer.evaluate()
    gathered: list = [None, None]
    torch.distributed.all_gather_object(gathered, [batches for _, batches in trainer.steps])
    lines = [line for line in trainer.state.log_history if "loss" in line]
    differences = []
    for step, (weights, _) in enumerate(trainer.steps):
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
        model.load_state_dict({name.removeprefix("module."): item for name, item in weights.items()})
        union = [batch for part in gathered for batch in part[step]]
        differences.append(abs(plain_cross_entropy(model, union).item() - lines[step]["loss"]))
    result = {
        "processes": trainer.accelerator.num_processes,
        "scored": sum(calls),
        "differences": differences if trainer.accelerator.is_main_process else [],
        "weights": sum(item.double().sum().item() for item in trainer.model.parameters()),
        "settings": [[entry["balance/temperature"], entry["balance/threshold"]] for entry in trainer.balance.history],
        "saved": [entry["balance/saved_completions"] for entry in trainer.balance.history],
        "extra": [entry["balance/extra_completions"] for entry in trainer.balance.history],
        "selected": trainer.figures["select/samples"],
        "pass@1": figures["eval_pass@1"],
    }
    rank = trainer.accelerator.process_index
    Path(output_dir, f"rank{rank}.json").write_text(json.dumps(result))
    trainer.accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree(tmp_path, model_path):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run(
        [*launch, __file__, str(tmp_path), model_path], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["processes"] == second["processes"] == 2
    assert max(first["differences"]) < 1e-5
    assert len(first["differences"]) == 6
    for name in ("weights", "settings", "saved", "extra", "selected", "pass@1"):
        assert first[name] == second[name], name
    # Two iterations of 36 queries, K = 8, less what rounds save, and an evaluation of 5 x (1 + 8); none twice.
    assert first["scored"] + second["scored"] == 2 * 36 * 8 - sum(first["saved"]) + 5 * 9
    assert min(first["saved"]) > 0
    assert min(first["scored"], second["scored"]) > 0
    assert first["extra"] == [0.0, 0.0]


if __name__ == "__main__":
    main(*sys.argv[1:])
