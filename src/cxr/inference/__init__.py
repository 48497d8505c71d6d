"""Apply a trained model to new images: in files, through MLflow, over HTTP."""
