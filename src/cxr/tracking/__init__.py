"""The connection to MLflow; only this package and inference/ import MLflow.

Everything that is logged to MLflow is also in a record file, which is authoritative.
"""

import os

# Set before MLflow is imported, because it reads them on import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # telemetry looks up a server on import
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seconds instead of minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # for a server that does not answer
