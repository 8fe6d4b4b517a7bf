"""The MLflow store that runs are sent to: a local SQLite file, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from isocline.tracking.spool import exclusive

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["EXPERIMENT", "checked_uri", "connect", "is_unreachable", "tracking_uri"]

EXPERIMENT = "isocline"
"""The MLflow experiment that all runs belong to."""

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or the SQLite file ``mlflow.db`` of the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{Path('mlflow.db').absolute()}"


def checked_uri(uri: str) -> str:
    """The URI itself.

    Raises:
        ValueError: if it is a bare folder, which MLflow no longer keeps runs in.
    """
    if "://" not in uri:
        raise ValueError(f"MLFLOW_TRACKING_URI={uri} is a folder; give sqlite:///{uri}.db or a server's address")
    return uri


def connect(uri: str | None = None) -> tuple[MlflowClient, str]:
    """Open the store and make sure that the experiment exists.

    A new SQLite store is made under a file lock, since two processes that make its tables at once fail.

    Args:
        uri: the store; ``tracking_uri()`` if not given.

    Returns:
        The client and the experiment's id.

    Raises:
        ValueError: if the URI is a bare folder, which MLflow no longer keeps runs in.
    """
    uri = checked_uri(uri or tracking_uri())
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not uri.startswith(_SQLITE):
        client = MlflowClient(uri)
        return client, _experiment(client, None)
    database = Path(uri.removeprefix(_SQLITE)).absolute()
    with exclusive(database.with_name(f"{database.name}.lock")):
        client = MlflowClient(uri)
        return client, _experiment(client, (database.parent / "mlartifacts").as_uri())


def _experiment(client: MlflowClient, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)
            assert found is not None
    elif found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def is_unreachable(error: BaseException) -> bool:
    """Whether the store is away or busy (try again later), rather than refusing what it was given."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
    if isinstance(error, MlflowException):
        text = str(error)
        away = ("API request to", "Max retries", "database is locked", "OperationalError", "unable to open")
        return any(sign in text for sign in away)
    return isinstance(error, OSError)  # requests' errors are OSErrors too
