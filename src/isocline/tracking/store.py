"""The MLflow store that runs are sent to: a local SQLite file, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from isocline.tracking.spool import exclusive

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "EXPERIMENT",
    "ask",
    "checked_uri",
    "connect",
    "is_denied",
    "is_refused",
    "tracking_uri",
    "without_credentials",
]

EXPERIMENT = "isocline"
"""The MLflow experiment that all runs belong to."""

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_SQLITE = "sqlite:///"
_USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@")
_TOO_LARGE = 413
_NEVER = (
    "ALREADY_EXISTS", "BAD_REQUEST", "ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE", "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
)  # fmt: skip
_DENIED = ("CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "UNAUTHENTICATED")


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


def without_credentials(text: str) -> str:
    """A URI, or a text that quotes some, as it may be shown and stored: without ``user:password@``."""
    return _USER_INFO.sub("", text)


def _client(uri: str) -> MlflowClient:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


def ask(uri: str) -> None:
    """Ask a server for one experiment: whether it takes this host name and these credentials, as tracking needs.

    Raises:
        MlflowException: if it does not answer, or refuses.
    """
    _client(uri).search_experiments(max_results=1)


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
    if not uri.startswith(_SQLITE):
        client = _client(uri)
        return client, _experiment(client, None)
    database = Path(uri.removeprefix(_SQLITE)).absolute()
    with exclusive(database.with_name(f"{database.name}.lock")):
        client = _client(uri)
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


def is_refused(error: BaseException) -> bool:
    """Whether the store will never accept what it was given.

    Everything else is worth another try: a store that is away or busy, an expired token, a page that a proxy answers
    with.
    """
    from mlflow.exceptions import MlflowException

    answer = getattr(error, "response", None)  # of the artifact store, through requests
    if getattr(answer, "status_code", None) == _TOO_LARGE or f"failed with error code {_TOO_LARGE}" in str(error):
        return True
    if not isinstance(error, MlflowException) or str(error).startswith("API request to"):
        return False
    return error.error_code in _NEVER


def is_denied(error: BaseException) -> bool:
    """Whether the server does not let this client in: its credentials, or the name that it calls the server by."""
    return getattr(error, "error_code", None) in _DENIED
