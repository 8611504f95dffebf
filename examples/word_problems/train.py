"""B-STaR on word problems, or on any rows with a question and an answer.

    python examples/word_problems/train.py --model_name_or_path start --output_dir out

Without `--data` on fresh problems. Goes on where a killed run was. `out` holds adapter, model card and curves.png.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from precision import has_fast_bf16
from problems import as_query, column, make_rows
from transformers import ProgressCallback
from trl import ModelConfig, TrlParser, get_peft_config

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer, LiveTable
from bstar_trl.rewards import AnswerMatch


@dataclass
class DataArguments:  # a file's rows have `question` (or `prompt`) and `answer`
    data: str | None = field(default=None, metadata={"help": "JSON lines to train on."})
    eval_data: str | None = field(default=None, metadata={"help": "JSON lines for evaluation."})


def as_dataset(path: str | None, fresh: list[dict[str, str]]) -> Dataset:
    rows = load_dataset("json", data_files=path, split="train") if path else fresh
    return Dataset.from_list([{"prompt": as_query(row), "answer": column(row, "answer")} for row in rows])


def main() -> None:
    parser = TrlParser((DataArguments, BSTaRConfig, ModelConfig))
    parser.set_defaults(use_peft=True, lora_target_modules=["all-linear"], learning_rate=1e-4)
    parser.set_defaults(use_cpu=not torch.cuda.is_available(), bf16=has_fast_bf16())
    parser.set_defaults(num_generations=8, queries_per_iteration=350, balance_target=1.0, iteration_steps=20)
    parser.set_defaults(max_steps=100, per_device_train_batch_size=15, max_completion_length=64, report_to="none")
    parser.set_defaults(eval_strategy="steps", eval_steps=20, num_generations_eval=4, save_steps=20)
    data, args, model = parser.parse_args_and_config()
    resume = args.resume_from_checkpoint or any(Path(args.output_dir).glob("checkpoint-*/trainer_state.json"))
    args.eval_on_start = args.eval_strategy != "no" and not resume
    trainer = BSTaRTrainer(
        model=model.model_name_or_path,
        reward_funcs=AnswerMatch(),
        args=args,
        train_dataset=as_dataset(data.data, make_rows(2000, seed=1)),
        eval_dataset=as_dataset(data.eval_data, make_rows(50, seed=1, held_out=True)),
        peft_config=get_peft_config(model),
        callbacks=[BalanceCallback(), LiveTable(curves=f"{args.output_dir}/curves.png")],
    )
    trainer.remove_callback(ProgressCallback)  # its lines would interrupt the table
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.create_model_card()


if __name__ == "__main__":
    main()
