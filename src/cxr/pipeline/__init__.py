"""How a stage runs (lock, run, checkpoint, publish), `dvc repro` and the demo."""
