"""Effects of nodes and edges over a task, by any estimator."""
