"""The start of B-STaR: a language model that has seen a few hundred solved word problems.

    python examples/word_problems/sft.py --model_name_or_path smollm2 --output_dir start

`--data`: JSON lines with `prompt` and `solution`; without it, fresh problems of `problems.py`. Every argument of TRL's
SFT script works here too.
"""

from dataclasses import dataclass, field

import torch
from datasets import Dataset, load_dataset
from precision import has_fast_bf16
from problems import as_query, column, make_rows
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config


@dataclass
class DataArguments:
    """What to train on."""

    data: str | None = field(default=None, metadata={"help": "JSON lines with `prompt` and `solution`."})
    number: int = field(default=400, metadata={"help": "Problems to make where there is no --data."})


def main() -> None:
    """Read the arguments, load, train, save."""
    parser = TrlParser((DataArguments, SFTConfig, ModelConfig))
    has_gpu = torch.cuda.is_available()
    parser.set_defaults(max_steps=50, per_device_train_batch_size=16, learning_rate=3e-5, dtype="float32")
    parser.set_defaults(
        use_cpu=not has_gpu, bf16=has_fast_bf16(), logging_steps=10, save_strategy="no", report_to="none"
    )
    data, args, model = parser.parse_args_and_config()
    if data.data:
        dataset = load_dataset("json", data_files=data.data, split="train")
    else:
        dataset = Dataset.from_list(make_rows(data.number, seed=args.seed))
    dataset = dataset.map(
        lambda row: {"prompt": as_query(row), "completion": column(row, "solution")},
        remove_columns=dataset.column_names,
    )
    args.model_init_kwargs = {"dtype": model.dtype} | (args.model_init_kwargs or {})
    trainer = SFTTrainer(
        model=model.model_name_or_path, args=args, train_dataset=dataset, peft_config=get_peft_config(model)
    )
    trainer.train()
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
