"""Where a result comes from: facts, records, and reading git and DVC."""
