"""The testbed: sums modulo 10 with chains whose every step can be checked, and a tiny policy that knows a little."""

from __future__ import annotations

from pathlib import Path


def policy_path() -> str:
    """The folder of the starting policy: `AutoModelForCausalLM.from_pretrained(policy_path())` loads it."""
    return str(Path(__file__).parent / "policy")
