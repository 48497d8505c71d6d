"""The life of a stage: claim, run, checkpoint, publish; `dvc repro` and the demo."""
