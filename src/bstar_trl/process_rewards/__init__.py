"""Process rewards: how steps lie in a token sequence, annotated steps, and the models trained on them."""
