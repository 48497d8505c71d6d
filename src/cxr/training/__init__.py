"""One training loop for every model, its inputs and its device."""
