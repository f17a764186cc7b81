"""What the SDK asks of a workspace besides running: environments, experiments, interactive runs, files, models."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockstep.workspace.daemon import Daemon
from tests.workspace.client import Client, SdkError

WS = """
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
"""


def test_from_config_finds_the_workspace(client: Client, tmp_path: Path) -> None:
    """`.azureml/config.json` with what the daemon says is enough for `Workspace.from_config`."""
    import json

    from lockstep.workspace import daemon

    (tmp_path / "config.json").write_text(json.dumps(daemon.config()))
    code = (
        "ws = Workspace.from_config(path)\nresult = [ws.name, ws.get_details()['friendlyName'], ws.location]"
    )
    assert client.run(code, path=str(tmp_path / "config.json")) == [
        "embedded",
        "Lockstep's embedded workspace",
        "local",
    ]


def test_environments_are_versioned(client: Client) -> None:
    """The same definition keeps its version, another one gets the next, and each can be fetched."""
    code = """
def make(image):
    env = Environment("versions")
    env.python.user_managed_dependencies = True
    env.docker.base_image = image
    env.environment_variables = {"A": "1"}
    return env.register(ws)
result = [make("one@sha256:1").version, make("one@sha256:1").version, make("two@sha256:2").version,
          Environment.get(ws, "versions").docker.base_image, Environment.get(ws, "versions", "1").docker.base_image,
          Environment.get(ws, "versions").environment_variables, "versions" in Environment.list(ws),
          Environment.get(ws, "versions", label="latest").version]
"""
    one, two = "one@sha256:1", "two@sha256:2"
    assert client.run(WS + code) == ["1", "1", "2", two, one, {"A": "1"}, True, "2"]


def test_a_version_that_the_client_names_is_kept(client: Client) -> None:
    """Registering under a version works once; another definition under it is refused in words."""
    code = """
def make(image):
    env = Environment("named")
    env.python.user_managed_dependencies = True
    env.docker.base_image = image
    env.version = "0123abcd"
    return env.register(ws).version
first = make("one")
again = make("one")
result = [first, again, Environment.get(ws, "named", "0123abcd").docker.base_image]
make("two")
"""
    with pytest.raises(SdkError, match="exists and is another one"):
        client.run(WS + code)
    code = "result = Environment.get(ws, 'named', '0123abcd').docker.base_image"
    assert client.run(WS + code) == "one"


@pytest.mark.parametrize("name", ["AzureML-pytorch-1.9-ubuntu18.04-py37-cuda11-gpu", "nobody"])
def test_an_environment_that_is_not_here_is_said_so(client: Client, name: str) -> None:
    """Also Azure's curated ones, with the reason."""
    with pytest.raises(SdkError, match="curated" if name.startswith("AzureML") else "not in this workspace"):
        client.run(WS + "Environment.get(ws, name)", name=name)


def test_interactive_runs_log_metrics_and_files(client: Client, tmp_path: Path) -> None:
    """`start_logging`, metrics of every kind, tags, children, uploads and downloads."""
    (tmp_path / "model.bin").write_bytes(b"weights" * 1000)
    code = """
run = Experiment(ws, "interactive").start_logging(snapshot_directory=None, display_name="shown")
for step in range(3):
    run.log("loss", 1 / (step + 1))
run.log_list("accuracy", [0.1, 0.2])
run.log_row("row", x=1, y=2.5)
run.log_table("table", {"a": [1, 2], "b": [3, 4]})
run.tag("quality", "good")
run.add_properties({"weights": "sha256"})
child = run.child_run("child")
child.log("inner", 7)
child.complete()
run.upload_file("outputs/model.bin", folder + "/model.bin")
run.flush()
before = run.get_metrics()
run.complete()
run.download_file("outputs/model.bin", folder + "/back.bin")
again = Run.get(ws, run.id)
result = [before, again.get_status(), again.get_tags()["quality"], again.properties["weights"], again.get_file_names(),
          [one.get_metrics() for one in again.get_children()], again.display_name,
          [one.id for one in Experiment(ws, "interactive").get_runs(tags={"quality": "good"})] == [run.id],
          [one.id for one in Experiment(ws, "interactive").get_runs(tags="nothing")]]
"""
    metrics, status, tag, weights, files, inner, name, found, none = client.run(
        WS + code, folder=str(tmp_path)
    )
    assert metrics["loss"] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert metrics["accuracy"] == [0.1, 0.2]
    assert metrics["row"] == {"x": 1, "y": 2.5}
    assert metrics["table"] == {"a": [1, 2], "b": [3, 4]}
    assert (status, tag, weights, name) == ("Completed", "good", "sha256", "shown")
    assert files == ["outputs/model.bin"]
    assert inner == [{"inner": 7}]
    assert found
    assert none == []
    assert (tmp_path / "back.bin").read_bytes() == b"weights" * 1000


def test_a_metric_is_seen_within_a_second(client: Client) -> None:
    """From `flush` to `get_metrics` of another client's view."""
    code = """
import time
run = Experiment(ws, "speed").start_logging(snapshot_directory=None)
other = Run.get(ws, run.id)
times = []
for number in range(3):
    name = f"quick{number}"
    began = time.monotonic()
    run.log(name, 1)
    run._client.metrics.flush() if hasattr(run._client.metrics, "flush") else run.flush()
    sent = time.monotonic()
    while name not in other.get_metrics(name):
        time.sleep(0.01)
    times.append(time.monotonic() - sent)
run.complete()
result = min(times)
"""
    assert client.run(WS + code) < 1


def test_a_big_file_goes_up_in_blocks(client: Client, tmp_path: Path) -> None:
    """Over 64 MiB the storage client sends blocks; what comes back is the same, as is an empty file."""
    (tmp_path / "big.bin").write_bytes(bytes(range(256)) * (70 * 4096))
    (tmp_path / "empty.bin").write_bytes(b"")
    code = """
import filecmp
run = Experiment(ws, "files").start_logging(snapshot_directory=None)
run.upload_folder("outputs", folder)
run.complete()
run.download_files(prefix="outputs", output_directory=folder + "/back")
result = [filecmp.cmp(f"{folder}/{name}", f"{folder}/back/outputs/{name}", False) for name in ("big.bin", "empty.bin")]
"""
    assert client.run(WS + code, folder=str(tmp_path)) == [True, True]


def test_models_are_registered_and_downloaded(client: Client, tmp_path: Path) -> None:
    """From a local file and from a run's artifact; versions count up."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    code = """
import os
os.chdir(folder)
first = Model.register(ws, model_path="model.pt", model_name="net", tags={"kind": "cnn"})
run = Experiment(ws, "models").start_logging(snapshot_directory=None)
run.upload_file("outputs/model.pt", folder + "/model.pt")
second = run.register_model("net", model_path="outputs/model.pt")
run.complete()
fetched = Model(ws, "net").download(folder + "/back", exist_ok=True)
result = [first.version, second.version, Model(ws, "net").version, open(fetched, "rb").read().decode(),
          [model.version for model in Model.list(ws, tags=[["kind", "cnn"]])], second.run_id == run.id]
"""
    ran = client.run(WS + code, folder=str(tmp_path))
    assert ran == [1, 2, 2, "weights", [1], True]


def test_a_snapshot_comes_back_as_it_was_sent(client: Client, tmp_path: Path, source: Path) -> None:
    """An interactive run's source folder is kept and can be restored; only what changed is sent again."""
    import zipfile

    (source / "train.py").write_text("print(1)")
    (source / "sub").mkdir()
    (source / "sub" / "other.py").write_text("print(2)")
    code = """
import pathlib
first = Experiment(ws, "snapshots").start_logging(snapshot_directory=source)
first.complete()
(pathlib.Path(source) / "train.py").write_text("print(3)")
second = Experiment(ws, "snapshots").start_logging(snapshot_directory=source)
second.complete()
result = [run.restore_snapshot(path=target) for run in (first, second)]
"""
    first, second = client.run(WS + code, source=str(source), target=str(tmp_path))
    held = []
    for path in (first, second):
        with zipfile.ZipFile(path) as archive:
            held.append({name: archive.read(name).decode() for name in archive.namelist()})
    assert held[0] == {"train.py": "print(1)", "sub/other.py": "print(2)"}
    assert held[1] == {"train.py": "print(3)", "sub/other.py": "print(2)"}


@pytest.mark.slow
def test_a_snapshot_of_thousands_of_files(client: Client, source: Path) -> None:
    """The SDK itself refuses more than 2,000 new files at once, in words; what it sends arrives whole."""

    def write(numbers: range) -> None:
        for number in numbers:
            path = source / f"folder-{number % 50}" / f"file-{number}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"print({number})")

    code = """
import zipfile
run = Experiment(ws, "snapshots").start_logging(snapshot_directory=source)
run.complete()
with zipfile.ZipFile(run.restore_snapshot(path="zips")) as archive:
    result = [len(archive.namelist()), archive.read("folder-49/file-499.py").decode()]
"""
    write(range(500))
    assert client.run(WS + code, source=str(source)) == [500, "print(499)"]
    write(range(500, 1000))
    assert client.run(WS + code, source=str(source)) == [1000, "print(499)"]
    write(range(1000, 6000))
    with pytest.raises(SdkError, match="exceeds the file limit of 2000"):
        client.run(WS + code, source=str(source))


def test_compute_targets(client: Client) -> None:
    """`cpu-cluster` is there; another one can be made and removed; a missing one is said to be missing."""
    code = """
from azureml.core.compute import AmlCompute, ComputeTarget
settings = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2", max_nodes=2)
made = ComputeTarget.create(ws, "small", settings)
made.wait_for_completion()
result = [ComputeTarget(ws, "cpu-cluster").scale_settings.maximum_node_count, made.scale_settings.maximum_node_count,
          sorted(ws.compute_targets)]
made.delete()
"""
    assert client.run(WS + code) == [4, 2, ["cpu-cluster", "small"]]
    with pytest.raises(SdkError, match=r"ComputeTargetNotFound|not found"):
        client.run(WS + "from azureml.core.compute import ComputeTarget\nComputeTarget(ws, 'small')")


def test_metrics_by_mlflows_http_call_need_no_mlflow(client: Client, server: Daemon) -> None:
    """`runs/log-metric` and `runs/log-batch` are kept at once, also where MLflow isn't installed; a loss may be NaN."""
    code = """
import requests
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
run = Experiment(ws, "http").start_logging(snapshot_directory=None)
uri = base + "/mlflow/v1.0" + ws.service_context._get_workspace_scope() + "/api/2.0/mlflow/runs/"
header = ws._auth_object.get_authentication_header()
for value in (1.5, "NaN"):
    requests.post(uri + "log-metric", headers=header, json={
        "run_id": run.id, "key": "loss", "value": value, "timestamp": 1700000000000, "step": 1}).raise_for_status()
batch = {"run_id": run.id, "metrics": [{"key": "a", "value": 1, "timestamp": 1700000000000, "step": 0}],
         "tags": [{"key": "who", "value": "me"}]}
requests.post(uri + "log-batch", headers=header, json=batch).raise_for_status()
refused = requests.post(uri + "log-metric", headers=header, json={"run_id": "nobody", "key": "x", "value": 1})
run.complete()
metrics = run.get_metrics()
result = [metrics["loss"][0], str(metrics["loss"][1]), metrics["a"], run.get_tags()["who"], refused.status_code]
"""
    assert client.run(code, base=server.url) == [1.5, "nan", 1.0, "me", 404]
