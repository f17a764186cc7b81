"""src/metrics.py by itself: it needs neither torch nor the image."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

CODE = (
    "import sys; from pathlib import Path; from metrics import Metrics\n"
    "metrics = Metrics(Path(sys.argv[1])); metrics.facts['seed'] = 3\n"
    "metrics.log('loss', 2.5, 10); metrics.log('loss', 1.5, 20)\n"
    "print(sorted({'urllib.request', 'mlflow', 'azureml'} & set(sys.modules)))\n"
)


def log(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Log two points in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "AZUREML"))}
    return subprocess.run(
        [sys.executable, "-c", CODE, folder],
        cwd=ROOT / "src",
        env={**clean, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def mlflow() -> Iterator[tuple[str, list[tuple[str, str | None, dict[str, object]]]]]:
    """A server that keeps what it is sent: path, authorization, body."""
    received: list[tuple[str, str | None, dict[str, object]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, self.headers["Authorization"], body))
            self.send_response(500 if body["step"] == 10 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/base", received
        server.shutdown()


def test_without_a_service_only_the_file_is_written(tmp_path: Path) -> None:
    """And nothing of a service is imported, as that would cost every start."""
    done = log(tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    facts = json.loads((tmp_path / "metrics.json").read_text())
    assert facts == {"seed": 3, "curves": {"loss": [[10, 2.5], [20, 1.5]]}}


def test_a_run_with_mlflow_s_variables_needs_no_client(
    tmp_path: Path, mlflow: tuple[str, list[tuple[str, str | None, dict[str, object]]]]
) -> None:
    """Each point is sent with the run's token; a refusal is said, without the token, and stops nothing."""
    uri, received = mlflow
    done = log(tmp_path, MLFLOW_TRACKING_URI=uri, MLFLOW_RUN_ID="run1", MLFLOW_TRACKING_TOKEN="secret")
    assert [(path, authorization) for path, authorization, _ in received] == [
        ("/base/api/2.0/mlflow/runs/log-metric", "Bearer secret")
    ] * 2
    assert [{**body, "timestamp": 0} for _, _, body in received] == [
        {"run_id": "run1", "key": "loss", "value": value, "step": step, "timestamp": 0}
        for value, step in ((2.5, 10), (1.5, 20))
    ]
    assert "refused loss" in done.stderr
    assert "secret" not in done.stderr
    assert (tmp_path / "metrics.json").exists()


def test_a_service_that_is_away_stops_nothing(tmp_path: Path) -> None:
    """Nobody listens on port 9."""
    done = log(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_RUN_ID="run1")
    assert done.stderr.count("refused loss") == 2
    assert (tmp_path / "metrics.json").exists()
