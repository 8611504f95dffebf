"""The testbed: sums modulo 10 with chains whose every step can be checked, a tiny policy that knows a little, and a
tiny process reward model made from it."""

from __future__ import annotations

from pathlib import Path


def policy_path() -> str:
    """The folder of the starting policy: `AutoModelForCausalLM.from_pretrained(policy_path())` loads it."""
    return str(Path(__file__).parent / "policy")


def prm_path() -> str:
    """The folder of the process reward model: `ProcessReward(prm_path())` scores with it (`scripts/make_prm.py`)."""
    return str(Path(__file__).parent / "prm")
