"""What the token of a run is good for: every route is asked for what isn't the run's, and for what is."""

from __future__ import annotations

import re
import ssl
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from lockstep.workspace.daemon import Daemon
from lockstep.workspace.identity import ARM_PATH, Identity
from lockstep.workspace.routes import ALL

HISTORY = f"/history/v1.0{ARM_PATH}"
ARTIFACTS = f"/artifact/v2.0{ARM_PATH}/artifacts"
ONLY_NAMES = {
    "subscriptions", "subscription", "resources", "resource_group", "workspace", "listing", "get", "query", "default",
    "get_asset", "get_model",
}  # fmt: skip
"""Functions that a job may call whoever it is: they show names, and nothing of another run."""


@dataclass(frozen=True)
class Asker:
    """Sends requests with one token."""

    server: Daemon
    token: str

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        context = ssl.create_default_context(cafile=str(self.server.folder / "tls" / "ca.pem"))
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with httpx.Client(verify=context, trust_env=False) as client:
            url = path if path.startswith("https:") else self.server.url + path
            return client.request(method, url, headers=headers, **more)


Make = Callable[[str], str]


@pytest.fixture(scope="module")
def owner(server: Daemon, folder: Path) -> Asker:
    """Asks as the workspace's owner."""
    return Asker(server, Identity.of(folder / "identity.json").token())


@pytest.fixture(scope="module")
def make(owner: Asker) -> Make:
    """Makes a run that goes, in an experiment of its own, with a secret among its artifacts."""

    def make(name: str) -> str:
        run = f"{name}-{uuid.uuid4().hex[:8]}"
        owner("POST", f"{HISTORY}/experiments/{name}")
        fields = {"status": "Running", "properties": {"ContentSnapshotId": snapshot(owner, name)}}
        assert owner("PATCH", f"{HISTORY}/experiments/{name}/runs/{run}", json=fields).status_code == 200
        put(owner, f"ExperimentRun/dcid.{run}", "outputs/secret.txt", f"secret of {name}")
        return run

    return make


def snapshot(owner: Asker, name: str) -> str:
    """Keep a snapshot of one file, and return its id."""
    identifier = str(uuid.uuid4())
    content = f"/content/v2.0{ARM_PATH}/snapshots"
    (node,) = owner("POST", f"{content}/getblob", json={"FileNames": ["train.py"]}).json()["fileNodes"]
    Asker(owner.server, "")("PUT", bare(node["blobUri"]), content=f"# {name}".encode())
    tree = {"name": "", "type": "Directory", "children": {"train.py": {"name": "train.py", "type": "File"}}}
    nodes = [{"FullName": "train.py", "BlobUri": node["blobUri"]}]
    sent = {"ParentSnapshotId": None, "DirTreeNode": tree, "FileRevisionList": {"FileNodes": nodes}}
    assert owner("POST", f"{content}/{identifier}", json=sent).status_code == 200
    return identifier


def bare(url: str) -> str:
    """Return an address without the user part that only the SDK's storage client wants."""
    return re.sub(r"//[^@/]*@", "//", url)


def put(asker: Asker, container: str, path: str, text: str) -> str:
    """Upload an artifact, and return the address that it went to."""
    made = asker("POST", f"{ARTIFACTS}/batch/metadata/{container}", json={"paths": [{"path": path}]})
    assert made.status_code == 200, made.text
    address = bare(made.json()["artifactContentInformation"][path]["contentUri"])
    assert Asker(asker.server, "")("PUT", address, content=text.encode()).status_code == 201
    return address


@pytest.fixture(scope="module")
def victim(make: Make) -> str:
    """A run of somebody else's."""
    return make("victim")


@pytest.fixture
def mine(make: Make) -> str:
    """The run whose token asks."""
    return make("mine")


@pytest.fixture
def job(server: Daemon, folder: Path, mine: str) -> Asker:
    """Asks as the run `mine`."""
    return Asker(server, Identity.of(folder / "identity.json").token(3600, mine))


def routes() -> list[tuple[str, str, str]]:
    """Return name, method and path of every route that wants a token."""
    return [
        (route.endpoint.__name__, method, route.path)
        for service in ALL
        for route in service.table
        if route.endpoint not in service.public
        for method in sorted(route.methods - {"HEAD"})
    ]


@pytest.mark.parametrize(("name", "method", "path"), routes())
def test_no_route_reaches_another_run_or_changes_the_workspace(
    name: str, method: str, path: str, job: Asker, owner: Asker, victim: str
) -> None:
    """Whatever a route names is somebody else's here: 403, or something that shows names only."""
    row = owner("GET", f"{HISTORY}/runs/{victim}").json()
    values = {
        "run": victim, "experiment": "victim", "experiment_id": row["experimentId"], "container": f"dcid.{victim}",
        "origin": "ExperimentRun", "path:path": "outputs/secret.txt", "environment": "victim", "compute": "victim",
        "datastore": "workspaceblobstore",
        "version": "1", "snapshot": row["properties"]["ContentSnapshotId"], "label": "latest",
        "method:path": "mlflow/runs/get", "subscription": ARM_PATH.split("/")[2], "group": "lockstep",
        "workspace": "embedded", "model": "victim:1", "asset": "0" * 32, "secret": "x", "tenant": "x",
    }  # fmt: skip
    for key, value in values.items():
        path = path.replace("{" + key + "}", value)
    assert "{" not in path, path
    body = {
        "runs": [{"runId": victim, "tags": {"a": "b"}}],
        "events": [{"name": "x.Canceled", "data": {"RunId": victim}}],
        "artifacts": [{"prefix": f"ExperimentRun/dcid.{victim}/outputs"}],
        "run_id": victim,
        "runId": victim,
    }
    before = owner("GET", f"{HISTORY}/runs/{victim}").json()
    answer = job(method, path, params={"run_id": victim}, **({} if method == "GET" else {"json": body}))
    if method == "GET" and name in ONLY_NAMES and answer.status_code != 403:
        assert answer.status_code in (200, 404)
        assert "secret of victim" not in answer.text
        assert victim not in answer.text
    else:
        assert answer.status_code == 403, (answer.status_code, answer.text)
        assert "docs/workspace.md" in answer.json()["error"]["message"]
        assert answer.json()["error"]["details"] == []
    assert owner("GET", f"{HISTORY}/runs/{victim}").json() == before


def test_a_run_writes_to_itself_and_to_its_children(job: Asker, owner: Asker, mine: str) -> None:
    """Metrics, tags, artifacts, children and their children, events; and it reads all of that again."""
    runs, child, grandchild = f"{HISTORY}/experiments/mine/runs", f"{mine}-c", f"{mine}-g"
    assert job("PATCH", f"{runs}/{mine}", json={"tags": {"a": "b"}}).json()["tags"] == {"a": "b"}
    assert job("PATCH", f"{runs}/{child}", json={"parentRunId": mine}).status_code == 200
    sent = {"runs": [{"runId": grandchild, "parentRunId": child}, {"runId": mine, "properties": {"p": "q"}}]}
    done = job("PATCH", f"{HISTORY}/experiments/mine/batch/runs", json=sent).json()
    assert set(done["runs"]) == {grandchild, mine}
    for run in (mine, child, grandchild):
        value = {"metricId": run, "data": {"loss": 1.0}}
        batch = {"values": [{"name": "loss", "columns": {"loss": "double"}, "value": [value]}]}
        assert job("POST", f"/metric/v2.0{ARM_PATH}/runs/{run}/batch", json=batch).status_code == 200
        assert (
            job("POST", f"/metric/v2.0{ARM_PATH}/runs/{run}/list", json={}).json()["value"][0]["metricKey"][
                "name"
            ]
            == "loss"
        )
        put(job, f"ExperimentRun/dcid.{run}", "outputs/own.txt", "own")
        read = job("GET", f"{ARTIFACTS}/contentinfo/ExperimentRun/dcid.{run}/outputs/own.txt").json()
        assert Asker(job.server, "")("GET", read["contentUri"]).text == "own"
    events = [{"name": "x.Run.Completed", "data": {"RunId": child}}]
    assert job("POST", f"{HISTORY}/experiments/mine/batch/events", json={"events": events}).status_code == 200
    assert owner("GET", f"{HISTORY}/runs/{child}").json()["status"] == "Completed"
    assert {one["runId"] for one in job("GET", f"{runs}/{mine}/children").json()["value"]} == {child}
    assert job("DELETE", f"{ARTIFACTS}/ExperimentRun/dcid.{mine}/outputs/own.txt").status_code == 200
    own = job("GET", f"{HISTORY}/runs/{mine}").json()["properties"]["ContentSnapshotId"]
    zipped = job("POST", f"/content/v2.0{ARM_PATH}/snapshots/{own}/zip").json()["zipSasUri"]
    assert Asker(job.server, "")("GET", zipped).content[:2] == b"PK"


def test_one_that_is_not_its_own_spoils_a_batch(job: Asker, owner: Asker, mine: str, victim: str) -> None:
    """Own runs don't open the door for others in the same request, nor does a parent of somebody else's."""
    path = f"{HISTORY}/experiments/mine/batch"
    for runs in (
        [{"runId": mine, "tags": {"x": "1"}}, {"runId": victim, "tags": {"x": "1"}}],
        [{"runId": "new", "parentRunId": victim}],
        [{"runId": "new"}],
        [{"runId": ["new"], "parentRunId": mine}],
    ):
        assert job("PATCH", f"{path}/runs", json={"runs": runs}).status_code == 403
    new = f"{HISTORY}/experiments/victim/runs/new-{mine}"
    assert job("PATCH", new, json={"parentRunId": mine}).status_code == 403
    assert "x" not in owner("GET", f"{HISTORY}/runs/{mine}").json()["tags"]


def test_a_run_that_is_made_during_a_batch_is_not_its_own(job: Asker, owner: Asker, mine: str) -> None:
    """A batch may name a run that isn't there yet; if its owner makes it before its turn comes, it is the owner's."""
    runs, path = f"{HISTORY}/experiments/mine/runs", f"{HISTORY}/experiments/mine/batch/runs"
    awaited, first = f"awaited-{mine}", f"{mine}-0"
    sent = [{"runId": f"{mine}-{number}", "parentRunId": mine} for number in range(4000)]
    sent.append({"runId": awaited, "parentRunId": mine, "properties": {"ContentSnapshotId": "planted"}})
    answers: list[Any] = []
    batch = threading.Thread(target=lambda: answers.append(job("PATCH", path, json={"runs": sent}).json()))
    batch.start()
    while owner("GET", f"{HISTORY}/runs/{first}").status_code != 200:
        assert batch.is_alive()
    assert owner("PATCH", f"{runs}/{awaited}", json={"properties": {"a": "b"}}).status_code == 200
    batch.join()
    assert answers[0]["errors"][awaited]["error"]["code"] == "AuthorizationFailed"
    assert owner("GET", f"{HISTORY}/runs/{awaited}").json()["properties"] == {"a": "b"}


def test_a_run_can_not_name_another_source_as_its_own(
    job: Asker, owner: Asker, mine: str, victim: str
) -> None:
    """Its snapshot is a property that says what it may read: it can't be changed, nor inherited from."""
    other = owner("GET", f"{HISTORY}/runs/{victim}").json()["properties"]["ContentSnapshotId"]
    fields = {"properties": {"ContentSnapshotId": other}}
    assert job("PATCH", f"{HISTORY}/experiments/mine/runs/{mine}", json=fields).status_code == 403
    sent = {"runs": [{"runId": mine, **fields}]}
    assert job("PATCH", f"{HISTORY}/experiments/mine/batch/runs", json=sent).status_code == 403
    child = {"parentRunId": mine, **fields}
    assert job("PATCH", f"{HISTORY}/experiments/mine/runs/{mine}-c", json=child).status_code == 200
    assert job("POST", f"/content/v2.0{ARM_PATH}/snapshots/{other}/zip").status_code == 403


def test_the_token_and_its_addresses_end_with_the_run(job: Asker, owner: Asker, mine: str) -> None:
    """After the run's end the token is refused, a fresh one too, and so is an address that it got before."""
    address = put(job, f"ExperimentRun/dcid.{mine}", "outputs/model.txt", "model")
    fresh = Asker(job.server, job("GET", f"{HISTORY}/experiments/mine/runs/{mine}/token").json()["token"])
    assert fresh("GET", f"{HISTORY}/runs/{mine}").status_code == 200
    owner("POST", f"{HISTORY}/experiments/mine/runs/{mine}/events", json={"name": "x.Run.Completed"})
    for asker in (job, fresh):
        refused = asker("GET", f"{HISTORY}/runs/{mine}")
        assert refused.status_code == 401
        assert "has ended" in refused.json()["error"]["message"]
    for method in ("PUT", "GET"):
        late = Asker(job.server, "")(method, address, content=b"other" if method == "PUT" else None)
        assert late.status_code == 403
        assert "has ended" in late.text
    read = owner("GET", f"{ARTIFACTS}/contentinfo/ExperimentRun/dcid.{mine}/outputs/model.txt").json()
    assert Asker(job.server, "")("GET", read["contentUri"]).text == "model"


def test_a_signed_address_is_for_what_and_whom_it_names(job: Asker, mine: str, victim: str) -> None:
    """Neither another blob nor another run's name, nor none, goes with a run's signature."""
    address = put(job, f"ExperimentRun/dcid.{mine}", "outputs/x", "own")
    other = f"ExperimentRun/dcid.{victim}/outputs/secret.txt".encode().hex()
    nobody = Asker(job.server, "")
    for changed in (
        re.sub(r"artifacts/[0-9a-f]+", f"artifacts/{other}", address),
        address.replace(f"si={mine}", f"si={victim}"),
        address.replace(f"&si={mine}", ""),
        re.sub(r"sig=[0-9a-f]+", "sig=" + "0" * 64, address),
    ):
        assert changed != address
        assert nobody("GET", changed).status_code == 403
        assert nobody("PUT", changed, content=b"x").status_code == 403
    assert nobody("GET", address).text == "own"


def test_what_is_registered_as_a_model_can_be_read_and_nothing_else(
    job: Asker, owner: Asker, mine: str, victim: str
) -> None:
    """A job registers its own files and its own uploads; what others registered it reads, and can't write."""
    models = f"/modelmanagement/v1.0{ARM_PATH}"
    theirs = f"ExperimentRun/dcid.{victim}/models/m"
    put(owner, f"ExperimentRun/dcid.{victim}", "models/m/weights", "weights")
    path = f"{ARTIFACTS}/contentinfo/{theirs}/weights"
    assert job("GET", path).status_code == 403
    asset = {"name": "m", "artifacts": [{"prefix": theirs}]}
    assert job("POST", f"{models}/assets", json=asset).status_code == 403
    assert owner("POST", f"{models}/assets", json=asset).status_code == 200
    read = job("GET", path)
    assert Asker(job.server, "")("GET", read.json()["contentUri"]).text == "weights"
    assert Asker(job.server, "")("PUT", read.json()["contentUri"], content=b"x").status_code == 401
    of_run = f"{HISTORY}/experiments/victim/runs/{victim}/artifacts"
    assert job("GET", f"{of_run}/prefix/contentinfo", params={"path": "models/m"}).status_code == 403
    batch = {"paths": [{"path": "models/m/weights"}]}
    assert (
        job("POST", f"{ARTIFACTS}/batch/metadata/ExperimentRun/dcid.{victim}", json=batch).status_code == 403
    )
    assert job("GET", f"{ARTIFACTS}/contentinfo/ExperimentRun/dcid.{victim}/models/m2").status_code == 403
    own = uuid.uuid4().hex
    put(job, f"LocalUpload/{own}", "model.pt", "mine")
    mine_too = {"name": "n", "artifacts": [{"prefix": f"LocalUpload/{own}/model.pt"}]}
    made = job("POST", f"{models}/assets", json=mine_too).json()
    sent = {"name": "n", "url": f"aml://asset/{made['id']}", "runId": mine}
    assert job("POST", f"{models}/models", json=sent).json()["version"] == 1
    assert job("POST", f"{models}/models", json={**sent, "runId": victim}).status_code == 403
    assert job("DELETE", f"{models}/models/n:1").status_code == 403


def test_an_upload_of_somebody_else_s_is_not_its_own(
    job: Asker, owner: Asker, make: Make, folder: Path
) -> None:
    """A container of uploads is whose it was first: the owner's, or another run's."""
    container, other = uuid.uuid4().hex, uuid.uuid4().hex
    put(owner, f"LocalUpload/{container}", "model.pt", "owner's")
    another = Asker(job.server, Identity.of(folder / "identity.json").token(3600, make("another")))
    put(another, f"LocalUpload/{other}", "model.pt", "another's")
    batch = {"paths": [{"path": "model.pt"}]}
    for one in (container, other):
        assert job("POST", f"{ARTIFACTS}/batch/metadata/LocalUpload/{one}", json=batch).status_code == 403
        assert job("GET", f"{ARTIFACTS}/contentinfo/LocalUpload/{one}/model.pt").status_code == 403
    assert job("POST", f"{ARTIFACTS}/batch/metadata/Other/{other}", json=batch).status_code == 403


def test_no_answer_to_a_job_or_to_nobody_holds_a_secret(job: Asker, owner: Asker, folder: Path) -> None:
    """Sign-in and studio stay the owner's; what the public metadata says is no secret."""
    own = Identity.of(folder / "identity.json")
    discovery = job("GET", ARM_PATH).json()["properties"]["discoveryUrl"]
    answers = [
        job("GET", ARM_PATH).text,
        job("GET", "/rp/workspaces" + ARM_PATH).text,
        Asker(job.server, "")("GET", discovery).text,
        Asker(job.server, "")("GET", "/metadata/endpoints").text,
        job("GET", f"/datastore/v1.0{ARM_PATH}/default").text,
    ]
    for secret in (own.key, *(own.secret(one) for one in ("sign-in", "studio", "discovery"))):
        assert not [text for text in answers if secret in text]
    assert (
        own.secret("studio")
        in Asker(job.server, "")("GET", owner("GET", ARM_PATH).json()["properties"]["discoveryUrl"]).text
    )


def test_the_cloud_is_ours_and_leads_nowhere_else(server: Daemon) -> None:
    """A name that no SDK knows, a portal with at most two dots, and no address of Azure's."""
    cloud, as_v1_asks = Asker(server, "")("GET", "/metadata/endpoints").json()
    assert {**as_v1_asks, "name": cloud["name"]} == cloud
    assert cloud["name"] == server.environment()["AZUREML_CURRENT_CLOUD"]
    assert cloud["name"] not in ("AzureCloud", "AzureChinaCloud", "AzureUSGovernment")
    assert cloud["portal"] == f"https://localhost:{server.port}/"
    assert f"@127.0.0.1:{server.port}" in cloud["suffixes"]["storage"]
    assert not re.search(r"windows\.net|azure\.(com|net)|microsoft", str(cloud))
