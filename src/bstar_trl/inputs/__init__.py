"""What users name: datasets and reward functions."""
