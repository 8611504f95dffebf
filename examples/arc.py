"""B-STaR on ARC-Challenge, or on any rows with choices: the right label decides.

    python examples/arc.py --model_name_or_path mistralai/Mistral-7B-Instruct-v0.3 --output_dir out --use_vllm

`--dataset_name` takes a data set of the Hub or a JSON-lines file with `question`, `choices` (`{"label": [...], "text":
[...]}`) and `answerKey` (or `answer`). One guess of four is right, so much of what looks right is luck: the balance
score takes it off, and `select/lucky_share` tells how much there is. The temperatures are the paper's for this task;
the threshold is fixed, because the label alone decides. Every argument of TRL's GRPO script works here too; LoRA
is on.
"""

import sys

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.rewards import MultipleChoice

INSTRUCTION = "Reason step by step. Write the letter of the right choice on the last line, after ####."
TEMPERATURES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


def to_row(row: dict) -> dict:
    """A prompt that lists the choices, and the right label."""
    choices = zip(row["choices"]["label"], row["choices"]["text"], strict=True)
    lines = [row["question"], *(f"{label}. {text}" for label, text in choices)]
    return {"prompt": "\n".join(lines), "answer": row["answerKey"] if "answerKey" in row else row["answer"]}


def to_messages(row: dict) -> dict:
    """For models with a chat template."""
    return {"prompt": [{"role": "user", "content": f"{row['prompt']}\n\n{INSTRUCTION}"}]}


def main() -> None:
    """Read the arguments, load, train, save."""
    parser = TrlParser((ScriptArguments, BSTaRConfig, ModelConfig))
    parser.set_defaults(dataset_name="allenai/ai2_arc", dataset_config="ARC-Challenge", use_peft=True)
    parser.set_defaults(learning_rate=2e-4, num_generations=32)
    script, args, model = parser.parse_args_and_config()
    if script.dataset_name.endswith((".json", ".jsonl")):
        dataset = load_dataset("json", data_files=script.dataset_name, split="train")
    else:
        dataset = load_dataset(script.dataset_name, script.dataset_config, split=script.dataset_train_split)
    if missing := {"question", "choices"} - set(dataset.column_names):
        sys.exit(f"the data needs the columns {', '.join(missing)}; it has {', '.join(dataset.column_names)}")
    dataset = dataset.map(to_row)
    if AutoTokenizer.from_pretrained(model.model_name_or_path).chat_template:
        dataset = dataset.map(to_messages)
    loading = {
        "dtype": model.dtype,
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
    }
    args.model_init_kwargs = loading | (args.model_init_kwargs or {})
    trainer = BSTaRTrainer(
        model=model.model_name_or_path,
        reward_funcs=MultipleChoice(),
        args=args,
        train_dataset=dataset,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[BalanceCallback(temperatures=TEMPERATURES, thresholds=0.0)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.create_model_card()


if __name__ == "__main__":
    main()
