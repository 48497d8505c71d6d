"""Where images and labels come from, and how they lie on disk."""
