"""A table of the user's own images: which images it lists, where they are, and reading them."""
