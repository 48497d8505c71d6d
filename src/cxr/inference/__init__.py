"""A trained model on new images: from files, as MLflow loads it, over HTTP."""
