"""Where a result comes from: facts, records, and what git and DVC store of them."""
