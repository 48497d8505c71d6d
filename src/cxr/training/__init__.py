"""Training: one loop for every model, and what feeds it."""
