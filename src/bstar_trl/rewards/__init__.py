"""Rewards: callables for TRL that know whether they are the verifier, and why they scored as they did."""
