"""The life of a stage, and what runs the pipeline."""
