"""MLflow: a real server behind the workspace, the real azureml-mlflow in front of it, and the pages for a browser."""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lockstep.workspace import daemon
from lockstep.workspace.daemon import Daemon
from lockstep.workspace.identity import ARM_PATH, Identity
from tests.workspace.client import Client
from tests.workspace.conftest import MLFLOW_PYTHON

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not MLFLOW_PYTHON.exists(), reason="`./invoke workspace` makes .venv-workspace, which has MLflow"
    ),
]
WS = """
import mlflow
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
mlflow.set_tracking_uri(ws.get_mlflow_tracking_uri())
"""


@pytest.fixture(scope="module")
def with_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A workspace with MLflow."""
    folder = tmp_path_factory.mktemp("mlflow") / "workspace"
    command = [sys.executable, "-m", "lockstep.workspace", str(folder), "--mlflow-python", str(MLFLOW_PYTHON)]
    running = daemon.start(folder, command)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def mlflow(with_mlflow: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A Python with azureml-core, MLflow and azureml-mlflow."""
    client = Client(with_mlflow.environment(), tmp_path_factory.mktemp("client"), MLFLOW_PYTHON)
    yield client
    client.close()


@pytest.fixture
def browser(with_mlflow: Daemon) -> Iterator[httpx.Client]:
    """A browser that came through the studio's address."""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{with_mlflow.studio_port}", trust_env=False, timeout=60
    ) as browser:
        browser.get(httpx.URL(with_mlflow.studio).path)
        while browser.get("/health").status_code != 200:
            time.sleep(0.2)
        yield browser


def test_what_mlflow_logs_is_seen_by_the_sdk(mlflow: Client, tmp_path: Path) -> None:
    """Experiment, run, parameters, metrics, tags, nested runs and artifacts, through azureml-mlflow."""
    (tmp_path / "note.txt").write_text("note")
    code = """
mlflow.set_experiment("through-mlflow")
with mlflow.start_run(run_name="first") as active:
    mlflow.log_param("lr", 0.1)
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"a": 1, "b": 2}, synchronous=False)
    mlflow.set_tag("who", "me")
    mlflow.log_artifact(folder + "/note.txt", "sub")
    with mlflow.start_run(nested=True) as nested:
        mlflow.log_metric("inner", 1)
run_id = active.info.run_id
client = mlflow.MlflowClient()
fetched = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="sub/note.txt")
runs = {run.id: run for run in Experiment(ws, "through-mlflow").get_runs(include_children=True)}
run = runs[run_id]
result = {"params": client.get_run(run_id).data.params, "artifact": open(fetched).read(), "metrics": run.get_metrics(),
          "files": run.get_file_names(), "tags": run.get_tags(), "status": run.get_status(), "name": run.display_name,
          "parent": runs[nested.info.run_id].parent.id == run_id,
          "listed": [file.path for file in client.list_artifacts(run_id, "sub")]}
"""
    ran = mlflow.run(WS + code, folder=str(tmp_path))
    assert ran["params"] == {"lr": "0.1"}
    assert ran["artifact"] == "note"
    assert ran["metrics"] == {"loss": [1.0, 0.5, pytest.approx(1 / 3)], "a": 1.0, "b": 2.0}
    assert ran["files"] == ran["listed"] == ["sub/note.txt"]
    assert (ran["status"], ran["name"], ran["tags"]) == ("Completed", "first", {"who": "me"})
    assert ran["parent"]


def test_what_the_sdk_logs_is_seen_by_mlflow(mlflow: Client, browser: httpx.Client, tmp_path: Path) -> None:
    """Metrics within seconds, states, tags and files; the portal URL opens the run's page in MLflow."""
    (tmp_path / "note.txt").write_text("note")
    code = """
import time
run = Experiment(ws, "through-sdk").start_logging(snapshot_directory=None)
for step in range(3):
    run.log("loss", 1 / (step + 1))
run.log_row("row", x=1, y=2)
run.tag("who", "me")
run.upload_file("outputs/note.txt", folder + "/note.txt")
run.flush()
began = time.monotonic()
client = mlflow.MlflowClient()
while "loss" not in client.get_run(run.id).data.metrics:
    time.sleep(0.05)
took = time.monotonic() - began
run.complete()
while client.get_run(run.id).info.status != "FINISHED" or "who" not in client.get_run(run.id).data.tags:
    time.sleep(0.05)
seen = client.get_run(run.id)
result = {"history": [[m.step, m.value] for m in client.get_metric_history(run.id, "loss")], "took": took,
          "metrics": seen.data.metrics, "tags": seen.data.tags, "id": run.id, "url": run.get_portal_url(),
          "files": [file.path for file in client.list_artifacts(run.id, "outputs")]}
"""
    ran = mlflow.run(WS + code, folder=str(tmp_path))
    assert ran["history"] == [[0, 1.0], [1, 0.5], [2, pytest.approx(1 / 3)]]
    assert ran["metrics"]["row/x"] == 1
    assert ran["tags"]["who"] == "me"
    assert ran["files"] == ["outputs/note.txt"]
    assert ran["took"] < 5
    opened = browser.get(ran["url"])
    assert opened.status_code == 303
    assert opened.headers["location"].endswith(f"/runs/{ran['id']}/model-metrics")
    assert "MLflow" in browser.get("/").text
    listed = browser.get(
        "/ajax-api/2.0/mlflow/artifacts/list", params={"run_id": ran["id"], "path": "outputs"}
    )
    assert [file["path"] for file in listed.json()["files"]] == ["outputs/note.txt"]
    shown = browser.get("/get-artifact", params={"run_id": ran["id"], "path": "outputs/note.txt"})
    assert shown.text == "note"


def test_a_link_among_the_artifacts_is_neither_shown_nor_followed(
    mlflow: Client, with_mlflow: Daemon, browser: httpx.Client, tmp_path: Path
) -> None:
    """A job's link to a file or folder of the host: not for the pages, not for the client, not for an upload."""
    (tmp_path / "secret").write_text("host's secret")
    code = "run = Experiment(ws, 'links').start_logging(snapshot_directory=None)\nresult = run.id"
    run = mlflow.run(WS + code)
    outputs = with_mlflow.folder / "artifacts" / "ExperimentRun" / f"dcid.{run}" / "outputs"
    outputs.mkdir(parents=True)
    (outputs / "file").symlink_to(tmp_path / "secret")
    (outputs / "folder").symlink_to(tmp_path)
    os.mkfifo(outputs / "pipe")
    (outputs / "re al.txt").write_text("real")
    listing, bytes_of = (
        "/ajax-api/2.0/mlflow/artifacts/list",
        ("/get-artifact", "/ajax-api/2.0/mlflow/get-artifact"),
    )
    listed = browser.get(listing, params={"run_id": run, "path": "outputs"}).json()["files"]
    assert listed == [{"path": "outputs/re al.txt", "is_dir": False, "file_size": 4}]
    assert browser.get(listing, params={"run_id": run}).json()["files"] == [
        {"path": "outputs", "is_dir": True, "file_size": 0}
    ]
    assert browser.get(listing, params={"run_id": run, "path": "outputs/folder"}).json()["files"] == []
    for address in bytes_of:
        assert browser.get(address, params={"run_id": run, "path": "outputs/re al.txt"}).text == "real"
        for path in ("outputs/file", "outputs/folder/secret", "outputs/pipe", "../../../../identity.json"):
            answer = browser.get(address, params={"run_uuid": run, "path": path})
            assert answer.status_code in (400, 404)
            assert "secret" not in answer.text
    code = "result = [file.path for file in mlflow.MlflowClient().list_artifacts(run, 'outputs')]"
    assert mlflow.run(WS + code, run=run) == ["outputs/re al.txt"]
    sent = browser.post(
        "/ajax-api/2.0/mlflow/upload-artifact",
        params={"run_uuid": run, "path": "outputs/folder/planted"},
        content=b"x",
    )
    assert sent.status_code >= 400
    assert not (tmp_path / "planted").exists()


def test_models_can_be_logged_loaded_and_registered(mlflow: Client, browser: httpx.Client) -> None:
    """A logged model's files are among its run's artifacts, are on its page, and come back as a model."""
    code = """
import numpy
from sklearn.linear_model import LinearRegression
import mlflow.sklearn
model = LinearRegression().fit(numpy.arange(4).reshape(-1, 1), numpy.arange(4))
with mlflow.start_run() as active:
    logged = mlflow.sklearn.log_model(model, name="model")
back = mlflow.sklearn.load_model(logged.model_uri)
registered = mlflow.register_model(logged.model_uri, "registered")
result = [round(float(back.predict([[5.0]])[0]), 6), registered.version, logged.model_id]
"""
    value, version, model = mlflow.run(WS + code)
    assert value == 5.0
    assert int(version) == 1
    page = f"/ajax-api/2.0/mlflow/logged-models/{model}/artifacts"
    listed = browser.get(f"{page}/directories").json()["files"]
    assert "MLmodel" in [file["path"] for file in listed]
    shown = browser.get(f"{page}/files", params={"artifact_file_path": "MLmodel"})
    assert "python_function" in shown.text


IN_A_JOB = """
import numpy, os
from sklearn.linear_model import LinearRegression
import mlflow.sklearn
from mlflow.exceptions import MlflowException
client = mlflow.MlflowClient()
mlflow.set_experiment("jobs")
with mlflow.start_run() as active:
    mlflow.log_param("lr", 0.1)
    mlflow.log_metric("loss", 0.5, step=1)
    mlflow.set_tag("who", "job")
    mlflow.log_text("note", "note.txt")
    with mlflow.start_run(nested=True) as nested:
        mlflow.log_metric("inner", 1)
    model = LinearRegression().fit(numpy.arange(4).reshape(-1, 1), numpy.arange(4))
    logged = mlflow.sklearn.log_model(model, name="model", registered_model_name="of-a-job")
new = client.create_run(client.get_experiment_by_name("jobs").experiment_id)
client.log_metric(new.info.run_id, "alone", 1)
back = mlflow.sklearn.load_model(logged.model_uri)
def refused(call):
    try:
        call()
    except MlflowException as error:
        return str(error)
experiment = client.get_experiment_by_name("jobs").experiment_id
result = {
    "own": active.info.run_id, "new": new.info.run_id, "nested": nested.info.run_id,
    "read": mlflow.artifacts.load_text(f"runs:/{active.info.run_id}/note.txt"),
    "value": round(float(back.predict([[5.0]])[0]), 6),
    "refused": [refused(call) for call in (
        lambda: client.get_run(victim), lambda: client.log_metric(victim, "planted", 1),
        lambda: client.log_batch(victim, tags=[mlflow.entities.RunTag("planted", "1")]),
        lambda: client.set_terminated(victim), lambda: client.delete_run(victim),
        lambda: client.delete_run(new.info.run_id),
        lambda: client.search_runs([experiment]), lambda: client.set_experiment_tag(experiment, "planted", "1"),
        lambda: client.create_experiment("another"), lambda: client.delete_registered_model("of-a-job"),
        lambda: client.create_run(experiment, tags={"mlflow.parentRunId": victim}),
        lambda: client.log_metric(active.info.run_id, "loss", 1, model_id=theirs),
        lambda: client.set_logged_model_tags(theirs, {"planted": "1"}))],
}
"""


def test_a_job_s_mlflow_reaches_its_own_run_only(with_mlflow: Daemon, mlflow: Client, tmp_path: Path) -> None:
    """azureml-mlflow with a run's token: its run, nested and new ones, models; nothing of others."""
    code = """
import numpy
from sklearn.linear_model import LinearRegression
import mlflow.sklearn
with mlflow.start_run() as other:
    theirs = mlflow.sklearn.log_model(LinearRegression().fit(numpy.eye(2), numpy.ones(2)), name="model").model_id
run = Experiment(ws, "jobs").start_logging(snapshot_directory=None)
victim = Experiment(ws, "jobs").start_logging(snapshot_directory=None)
result = [run.id, victim.id, theirs, run.experiment.id]
"""
    run, victim, theirs, experiment = mlflow.run(WS + code)
    token = Identity.of(with_mlflow.folder / "identity.json").token(3600, run)
    address = with_mlflow.url.removeprefix("https://")
    environment = {
        **with_mlflow.environment(),
        "MSI_ENDPOINT": "",
        "AZUREML_RUN_ID": run,
        "AZUREML_RUN_TOKEN": token,
        "AZUREML_SERVICE_ENDPOINT": with_mlflow.url,
        "AZUREML_ARM_SUBSCRIPTION": ARM_PATH.split("/")[2],
        "AZUREML_ARM_RESOURCEGROUP": "lockstep",
        "AZUREML_ARM_WORKSPACE_NAME": "embedded",
        "AZUREML_ARM_PROJECT_NAME": "jobs",
        "AZUREML_EXPERIMENT_ID": str(experiment),
        "MLFLOW_TRACKING_URI": f"azureml://{address}/mlflow/v1.0{ARM_PATH}",
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_RUN_ID": run,
        "MLFLOW_EXPERIMENT_ID": str(experiment),
        "MLFLOW_EXPERIMENT_NAME": "jobs",
    }
    job = Client(environment, tmp_path / "job", MLFLOW_PYTHON)
    try:
        ran = job.run(IN_A_JOB, victim=victim, theirs=theirs)
    finally:
        job.close()
    assert (ran["own"], ran["read"], ran["value"]) == (run, "note", 5.0)
    assert [told for told in ran["refused"][:-1] if "docs/workspace.md" not in (told or "")] == []
    assert "may not have access" in ran["refused"][-1]  # MLflow's own words
    code = """
client = mlflow.MlflowClient()
one = Run.get(ws, run)
other = Run.get(ws, victim)
result = {"children": sorted(child.id for child in one.get_children()), "metrics": one.get_metrics(),
          "victim": [other.get_status(), other.get_tags(), other.get_metrics()],
          "model": client.get_model_version("of-a-job", "1").run_id}
"""
    seen = mlflow.run(WS + code, run=run, victim=victim)
    assert seen["children"] == sorted([ran["nested"], ran["new"]])
    assert seen["metrics"]["loss"] == 0.5
    assert seen["victim"] == ["Running", {}, {}]
    assert seen["model"] == run


def test_no_spelling_of_a_request_reaches_another_run(with_mlflow: Daemon, mlflow: Client) -> None:
    """MLflow decodes a body that is JSON in a text once more, and takes a query for a GET only."""
    made = """
runs = [Experiment(ws, "spelled").start_logging(snapshot_directory=None) for _ in range(2)]
client = mlflow.MlflowClient()
[client.get_run(run.id) for run in runs]
result = [*(run.id for run in runs), runs[0].experiment.id]
"""
    own, victim, experiment = mlflow.run(WS + made)
    token = Identity.of(with_mlflow.folder / "identity.json").token(3600, own)
    context = ssl.create_default_context(cafile=str(with_mlflow.folder / "tls" / "ca.pem"))
    tries: list[tuple[str, dict[str, object], dict[str, str]]] = [
        ("runs/set-tag", {"run_id": victim, "key": "planted", "value": "1"}, {"run_id": own}),
        ("runs/update", {"run_id": victim, "status": "KILLED"}, {"run_id": own}),
        ("runs/log-parameter", {"run_id": victim, "key": "planted", "value": "1"}, {"run_id": own}),
        ("runs/create", {"experiment_id": "0"}, {"experiment_id": str(experiment)}),
        ("registered-models/create", {"name": "planted"}, {}),
        ("model-versions/create", {"name": "planted", "source": "x", "run_id": victim}, {}),
        ("logged-models", {"experiment_id": str(experiment), "source_run_id": victim}, {"run_id": own}),
    ]
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(verify=context, trust_env=False, headers=headers, timeout=60) as job:
        for method, body, query in tries:
            url = f"{with_mlflow.url}/mlflow/v2.0{ARM_PATH}/api/2.0/mlflow/{method}"
            for sent in (json.dumps(json.dumps(body)), json.dumps([body]), None):
                if sent is None and not query:  # registering a model, which a job may
                    continue
                answer = job.post(url, params=query, content=sent)
                assert answer.status_code == 403, (method, sent, answer.text)
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = job.post(url, params=query, content=json.dumps(body), headers=form)
            assert answer.status_code == 403, (method, answer.text)
        tag = {"run_id": own, "key": "mine", "value": "1"}
        url = f"{with_mlflow.url}/mlflow/v2.0{ARM_PATH}/api/2.0/mlflow/runs/set-tag"
        assert job.post(url, json=tag).status_code == 200
    code = """
client = mlflow.MlflowClient()
run = client.get_run(victim)
result = [run.info.status, run.data.params, "planted" in run.data.tags]
"""
    assert mlflow.run(WS + code, victim=victim) == ["RUNNING", {}, False]


def test_nothing_of_mlflow_is_left_behind(tmp_path: Path) -> None:
    """Its processes end with the server; what a killed server left ends with the next."""
    folder = tmp_path / "workspace"
    command = [sys.executable, "-m", "lockstep.workspace", str(folder), "--mlflow-python", str(MLFLOW_PYTHON)]

    def processes() -> int:
        found = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                told = path.read_bytes()
            except OSError:
                continue
            found += str(folder / "mlflow" / "mlflow.sqlite").encode() in told
        return found

    first = daemon.start(folder, command)
    assert processes() == 1
    os.kill(first.pid, signal.SIGKILL)
    while daemon.is_served(folder):
        time.sleep(0.01)
    assert processes() == 1
    second = daemon.start(folder, command)
    while processes() > 1:
        time.sleep(0.1)
    second.stop()
    assert processes() == 0
