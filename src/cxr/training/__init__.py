"""The training loop of all models, with its inputs and device."""
