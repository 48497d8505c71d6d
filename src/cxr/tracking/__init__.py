"""The connection to MLflow; only this package and inference/ import it.

Files come first and MLflow second: whatever it is told stands in a record too.
"""

import os

# Before anything of MLflow is imported, which reads them then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it looks a server up on import
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seconds instead of minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # of a server that does not answer
