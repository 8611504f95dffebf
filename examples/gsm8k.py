"""B-STaR on GSM8K, or on any rows with a question and an answer.

    python examples/gsm8k.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --output_dir out --use_vllm

`--dataset_name` takes a data set of the Hub or a JSON-lines file; the columns are `question` (or `prompt`) and
`answer` (a bare answer, or a solution that ends in one). Every argument of TRL's GRPO script works here too; LoRA is
on (`--use_peft false` trains all weights). On several GPUs: `accelerate launch examples/gsm8k.py ...`.
"""

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.rewards import AnswerMatch

INSTRUCTION = "Reason step by step. Write the final answer on the last line, after ####."


def to_messages(row: dict) -> dict:
    """For models with a chat template."""
    return {"prompt": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": row["prompt"]}]}


def main() -> None:
    """Read the arguments, load, train, save."""
    parser = TrlParser((ScriptArguments, BSTaRConfig, ModelConfig))
    parser.set_defaults(dataset_name="openai/gsm8k", dataset_config="main", use_peft=True, learning_rate=2e-4)
    script, args, model = parser.parse_args_and_config()
    if script.dataset_name.endswith((".json", ".jsonl")):
        dataset = load_dataset("json", data_files=script.dataset_name, split="train")
    else:
        dataset = load_dataset(script.dataset_name, script.dataset_config, split=script.dataset_train_split)
    if "prompt" not in dataset.column_names:
        dataset = dataset.rename_column("question", "prompt")
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
        reward_funcs=AnswerMatch(),
        args=args,
        train_dataset=dataset,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[BalanceCallback()],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
