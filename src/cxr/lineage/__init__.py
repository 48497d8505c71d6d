"""Where a result comes from: facts, records, and what git and DVC keep of them."""
