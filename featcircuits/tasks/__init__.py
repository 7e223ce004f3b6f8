"""Tasks: prompts, answers, metrics, and what the model does on them."""
