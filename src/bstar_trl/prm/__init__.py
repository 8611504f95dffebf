"""Process reward models: the layouts of the public families, loading a model, and scoring steps with it."""
