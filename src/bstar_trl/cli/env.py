"""`bstar-trl env`."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "bstar-trl", "trl", "transformers", "torch", "accelerate", "peft", "datasets", "numpy", "math-verify", "vllm",
    "bitsandbytes", "deepspeed", "wandb", "trackio", "tensorboard", "matplotlib",
)  # fmt: skip


def add_to(commands: Any) -> None:
    """Add the command."""
    env = commands.add_parser(
        "env",
        help="print versions and devices, for a bug report",
        description="Prints the versions of what bstar-trl builds on, and the devices that torch sees.",
    )
    env.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    import torch

    facts = {"Python": platform.python_version(), "platform": platform.platform(), "cores": str(os.cpu_count())}
    facts |= {name: _version(name) for name in PACKAGES}
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    facts["GPU"] = ", ".join(names) or "none"
    facts["CUDA of torch"] = torch.version.cuda or "none"
    for name, value in facts.items():
        print(f"- {name}: {value}")
    return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
