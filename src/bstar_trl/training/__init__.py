"""The trainer and its parts: what happens in an iteration, and what a checkpoint holds."""
