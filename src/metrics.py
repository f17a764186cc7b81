"""Where metrics go besides stdout: outputs/metrics.json always, and the service that runs the job.

The service gets them through `Run.get_context()` where the image has azureml-core, else through mlflow
where it has that, else, in a run that has MLflow's variables (Azure ML sets them), by MLflow's own HTTP
call, so that an image needs neither. None is imported elsewhere. Losing a metric never stops a training.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Log = Callable[[str, float, int], None]
HTTP_SECONDS = 10.0


class Metrics:
    """The run's facts and curves; only one process of a job makes one with a folder.

    `facts` goes to metrics.json as it is. Times are kept out of it, so that two runs that did the same
    leave the same bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self._service: Log | None = _find_service()

    def log(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve `name`; `step` counts batches from the start of the training."""
        self.facts.setdefault("curves", {}).setdefault(name, []).append([step, value])
        self.write()
        if self._service:
            try:
                self._service(name, value, step)
            except Exception as error:  # whatever the service's client raises: the training goes on
                print(f"metrics: the service refused {name}: {error}", file=sys.stderr, flush=True)

    def write(self) -> None:
        """Write metrics.json, so that a run that is killed leaves its curve so far."""
        text = json.dumps(self.facts, indent=1, sort_keys=True) + "\n"
        write_whole(self.folder / "metrics.json", text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by rename, so that a killed process leaves it whole or absent."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)


def _find_service() -> Log | None:
    try:
        if os.environ.get("AZUREML_RUN_ID") and _importable("azureml.core"):
            return _azureml()
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if (
            uri
            and _importable("mlflow")
            and (_importable("azureml.mlflow") or not uri.startswith("azureml:"))
        ):
            return _mlflow()
        if uri.startswith(("azureml:", "https:", "http:")) and os.environ.get("MLFLOW_RUN_ID"):
            return _mlflow_by_http(uri)
    except Exception as error:  # a half-installed client, a service that is away
        print(f"metrics: no service: {error}", file=sys.stderr, flush=True)
    return None


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _azureml() -> Log:
    from azureml.core import Run

    run = Run.get_context()
    return lambda name, value, step: run.log(name, value, step=step)


def _mlflow() -> Log:
    import mlflow

    mlflow.start_run(run_id=os.environ.get("MLFLOW_RUN_ID"))
    return lambda name, value, step: mlflow.log_metric(name, value, step=step)


def _mlflow_by_http(uri: str) -> Log:
    """Return a logger that makes MLflow's call `runs/log-metric` itself (MLflow REST API 2.0)."""
    import time
    import urllib.request

    address = uri.replace("azureml:", "https:", 1).rstrip("/") + "/api/2.0/mlflow/runs/log-metric"
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"

    def log(name: str, value: float, step: int) -> None:
        metric = {"key": name, "value": value, "step": step, "timestamp": int(time.time() * 1000)}
        body = json.dumps({"run_id": os.environ["MLFLOW_RUN_ID"], **metric}).encode()
        request = urllib.request.Request(address, body, headers)  # noqa: S310 - _find_service let http pass only
        urllib.request.urlopen(request, timeout=HTTP_SECONDS).close()  # noqa: S310 - the same

    return log
