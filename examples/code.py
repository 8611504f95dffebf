"""B-STaR on MBPP, or on any rows with unit tests: a program is correct if it passes all tests of its row.

    python examples/code.py --model_name_or_path Qwen/Qwen2.5-Coder-1.5B-Instruct --output_dir out --use_vllm

`--dataset_name` takes a data set of the Hub or a JSON-lines file with `prompt` and one of the shapes that `UnitTests`
reads: `tests` and `setup`, `test` and `entry_point`, or `inputs` and `outputs`. Programs run in a sandbox
(`bstar-trl sandbox-check` lists the layers that work on this machine). The temperatures are the paper's for code; the
threshold is fixed, because the tests alone decide. Every argument of TRL's GRPO script works here too; LoRA is on.
"""

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.rewards import UnitTests

INSTRUCTION = "Write the program that is asked for, in Python, in one code block."
TEMPERATURES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


def to_prompt(row: dict) -> dict:
    """For MBPP from the Hub, whose tasks name the function only in their tests."""
    return {"prompt": "\n".join([row["text"], "Your code should pass these tests:", "", *row["test_list"]])}


def to_messages(row: dict) -> dict:
    """For models with a chat template."""
    return {"prompt": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": row["prompt"]}]}


def main() -> None:
    """Read the arguments, load, train, save."""
    parser = TrlParser((ScriptArguments, BSTaRConfig, ModelConfig))
    parser.set_defaults(
        dataset_name="google-research-datasets/mbpp", dataset_config="full", use_peft=True, learning_rate=2e-4
    )
    script, args, model = parser.parse_args_and_config()
    if script.dataset_name.endswith((".json", ".jsonl")):
        dataset = load_dataset("json", data_files=script.dataset_name, split="train")
    else:
        dataset = load_dataset(script.dataset_name, script.dataset_config, split=script.dataset_train_split)
    if "prompt" not in dataset.column_names:
        dataset = dataset.map(to_prompt)
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
        reward_funcs=UnitTests(),
        args=args,
        train_dataset=dataset,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[BalanceCallback(temperatures=TEMPERATURES, thresholds=0.0)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
