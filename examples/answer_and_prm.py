"""The paper's main setting for mathematics: the answer and a process reward model, temperature and threshold balanced.

    python examples/answer_and_prm.py --model_name_or_path Qwen/Qwen2.5-Math-1.5B-Instruct --output_dir out --use_vllm

`--dataset_name` takes a data set of the Hub or a JSON-lines file; the columns are `problem` (or `question`, or
`prompt`) and `answer` or `solution`. `--prm` takes any of the families that `ProcessReward` reads. The paper samples
64 responses to each query: `--num_generations 64`. `--paper` searches as the paper does: a grid of temperatures and
thresholds on queries that are sampled for the search alone. Every argument of TRL's GRPO script works here too; LoRA
is on.
"""

import sys
from dataclasses import dataclass, field

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.rewards import AnswerMatch, ProcessReward

INSTRUCTION = "Reason step by step, a line for each step. Write the final answer on the last line, in \\boxed{}."


@dataclass
class RewardArguments:
    """What judges the responses, and how the setting is searched."""

    prm: str = field(
        default="peiyi9979/math-shepherd-mistral-7b-prm",
        metadata={"help": "The process reward model: Hub id or folder."},
    )
    paper: bool = field(default=False, metadata={"help": "Search by the paper's grid."})


def main() -> None:
    """Read the arguments, load, train, save."""
    parser = TrlParser((ScriptArguments, RewardArguments, BSTaRConfig, ModelConfig))
    parser.set_defaults(dataset_name="EleutherAI/hendrycks_math", use_peft=True, learning_rate=2e-4)
    parser.set_defaults(dataset_config="algebra", num_generations=32)
    script, rewards, args, model = parser.parse_args_and_config()
    if script.dataset_name.endswith((".json", ".jsonl")):
        dataset = load_dataset("json", data_files=script.dataset_name, split="train")
    else:
        dataset = load_dataset(script.dataset_name, script.dataset_config, split=script.dataset_train_split)
    names = [name for name in ("prompt", "problem", "question") if name in dataset.column_names]
    if not names:
        sys.exit(f"the data needs a column prompt, problem or question; it has {', '.join(dataset.column_names)}")
    question = names[0]
    dataset = dataset.rename_column(question, "prompt") if question != "prompt" else dataset
    if AutoTokenizer.from_pretrained(model.model_name_or_path).chat_template:
        dataset = dataset.map(
            lambda row: {
                "prompt": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": row["prompt"]}]
            }
        )
    loading = {
        "dtype": model.dtype,
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
    }
    args.model_init_kwargs = loading | (args.model_init_kwargs or {})
    gold = "answer" if "answer" in dataset.column_names else "solution"
    trainer = BSTaRTrainer(
        model=model.model_name_or_path,
        reward_funcs=[AnswerMatch(gold), ProcessReward(rewards.prm)],
        args=args,
        train_dataset=dataset,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[BalanceCallback.paper() if rewards.paper else BalanceCallback()],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.create_model_card()


if __name__ == "__main__":
    main()
