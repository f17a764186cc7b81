"""A job that attacks the machine it runs on: through the folders that it can write, and addresses that it may use."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lockstep.removal import remove_tree
from lockstep.workspace.daemon import Daemon
from lockstep.workspace.folder import Folder
from lockstep.workspace.identity import ARM_PATH, Identity
from lockstep.workspace.inputs import take_back
from tests.swapping import swapping
from tests.workspace.client import Client
from tests.workspace.test_run import SUBMIT, WAIT

ARTIFACTS = f"/artifact/v2.0{ARM_PATH}/artifacts"
SECRET = "the host's secret"
Ask = Callable[..., httpx.Response]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of the host with a secret."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "secret").write_text(SECRET)
    return tmp_path / "host"


@pytest.fixture
def container() -> str:
    """The artifact container of a run."""
    return f"dcid.hostile-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def outputs(folder: Path, container: str) -> Path:
    """The run's `outputs`, which its container has mounted: what is done here, the job can do."""
    path = folder / "artifacts" / "ExperimentRun" / container / "outputs"
    (path / "d").mkdir(parents=True)
    return path


@pytest.fixture
def ask(server: Daemon, folder: Path) -> Iterator[Ask]:
    """Sends requests with the job's token."""
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
    headers = {"Authorization": f"Bearer {Identity.of(folder / 'identity.json').token()}"}
    with httpx.Client(
        verify=context, trust_env=False, base_url=server.url, headers=headers, timeout=30
    ) as client:
        yield client.request


def upload_path(ask: Ask, container: str, path: str) -> str:
    """Return where an artifact may be uploaded to, as a path with its signature."""
    made = ask(
        "POST", f"{ARTIFACTS}/batch/metadata/ExperimentRun/{container}", json={"paths": [{"path": path}]}
    )
    address = urlsplit(made.json()["artifactContentInformation"][path]["contentUri"])
    return f"{address.path}?{address.query}"


def test_a_folder_swapped_for_a_link_while_an_upload_is_under_way(
    ask: Ask, server: Daemon, folder: Path, outputs: Path, container: str, host: Path
) -> None:
    """The file doesn't land in the host's folder: the upload is refused, and the server goes on."""
    path = upload_path(ask, container, "outputs/d/planted")
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=30)
    connection.putrequest("PUT", path)
    connection.putheader("x-ms-blob-type", "BlockBlob")
    connection.putheader("Content-Length", "8")
    connection.endheaders()
    connection.send(b"four")
    while not any((folder / "tmp").iterdir()):
        time.sleep(0.01)  # until the request has been looked at
    os.rename(outputs / "d", outputs / "aside")
    (outputs / "d").symlink_to(host)
    connection.send(b"more")
    answer = connection.getresponse()
    connection.close()
    assert answer.status == 409
    assert [each.name for each in host.iterdir()] == ["secret"]


def test_a_folder_and_a_link_swapped_without_pause(
    ask: Ask, outputs: Path, container: str, host: Path, folder: Path
) -> None:
    """Reading, listing, uploading and deleting, three hundred times each: the host's folder is never reached."""
    (outputs / "link").symlink_to(host)
    (outputs / "d" / "secret").write_text("the job's own")
    (outputs / "d" / "doomed").write_text("the job's own")
    (host / "doomed").write_text(SECRET)
    put = upload_path(ask, container, "outputs/d/planted")
    read = upload_path(ask, container, "outputs/d/secret")
    seen: set[str] = set()
    with swapping(outputs / "d", outputs / "link"):
        for _ in range(300):
            for method, path, content in (
                ("GET", read, None),
                ("PUT", put, b"x"),
                ("DELETE", f"{ARTIFACTS}/ExperimentRun/{container}/outputs/d/doomed", None),
                ("GET", f"{ARTIFACTS}/ExperimentRun/{container}?path=outputs/d", None),
            ):
                answer = ask(method, path, content=content, headers={"x-ms-blob-type": "BlockBlob"})
                seen.add(answer.text if method == "GET" else "")
                assert answer.status_code < 500
    assert sorted(each.name for each in host.iterdir()) == ["doomed", "secret"]
    assert "the job's own" in seen
    assert not any(SECRET in text for text in seen)


def test_links_at_rest_are_not_there(ask: Ask, outputs: Path, container: str, host: Path) -> None:
    """A link to a file, to a folder, upward, through ten others: 404, in no listing, and not written through."""
    (outputs / "file").symlink_to(host / "secret")
    (outputs / "folder").symlink_to(host)
    (outputs / "d" / "up").symlink_to(os.path.relpath(host, outputs / "d"))
    (outputs / "chain0").symlink_to("folder")
    for number in range(1, 11):
        (outputs / f"chain{number}").symlink_to(f"chain{number - 1}")
    os.mkfifo(outputs / "pipe")
    (outputs / "real.txt").write_text("real")
    for name in ("file", "folder/secret", "d/up/secret", "chain10/secret", "pipe"):
        for kind in ("contentinfo", "metadata"):
            answer = ask("GET", f"{ARTIFACTS}/{kind}/ExperimentRun/{container}/outputs/{name}")
            assert answer.status_code == 404, (name, answer.text)
        path = upload_path(ask, container, f"outputs/{name}")
        assert ask("GET", path).status_code == 404
        assert ask("DELETE", f"{ARTIFACTS}/ExperimentRun/{container}/outputs/{name}").status_code == 404
        sent = ask("PUT", path, content=b"mine", headers={"x-ms-blob-type": "BlockBlob"})
        assert sent.status_code in (201, 409)
    for below in ("", "outputs", "outputs/folder", "outputs/chain10"):
        answer = ask("GET", f"{ARTIFACTS}/ExperimentRun/{container}?path={below}").json()
        shown = {one["path"] for one in answer["value"]}
        assert shown <= {"outputs/real.txt", "outputs/file", "outputs/pipe"}  # the PUTs replaced two of them
    assert [each.name for each in host.iterdir()] == ["secret"]
    assert (host / "secret").read_text() == SECRET


def test_names_that_no_client_can_carry_do_not_break_a_listing(
    ask: Ask, outputs: Path, container: str
) -> None:
    """Names that aren't UTF-8, with control characters, and a thousand folders in one another."""
    before = os.getcwd()
    os.chdir(outputs / "d")
    for _ in range(1500):
        os.mkdir("deep")
        os.chdir("deep")
    os.chdir(before)
    (outputs / os.fsdecode(b"\xff\xfe.pt")).write_text("x")
    (outputs / "a\x01b").write_text("x")
    (outputs / "real.txt").write_text("real")
    answer = ask("GET", f"{ARTIFACTS}/prefix/contentinfo/ExperimentRun/{container}")
    remove_tree(outputs / "d")  # pytest can't: it is too deep
    assert [one["path"] for one in answer.json()["value"]] == ["outputs/real.txt"]


def test_an_upload_leaves_links_behind(tmp_path: Path, host: Path) -> None:
    """What a run writes for an `upload` reference: files come to the datastore, what links lead to doesn't."""
    folder = Folder(tmp_path / "workspace")
    folder.prepare()
    written = folder.run("r") / "uploads" / "up"
    (written / "sub").mkdir(parents=True)
    (written / "sub" / "real.txt").write_text("real")
    (written / "shadow").symlink_to(host / "secret")
    (written / "identity").symlink_to(os.path.relpath(folder.path / "state.sqlite", written))
    (written / "everything").symlink_to(host)
    os.mkfifo(written / "pipe")
    reference = {"mode": "upload", "dataStoreName": "workspaceblobstore", "pathOnDataStore": "results"}
    lines = take_back({"dataReferences": {"up": reference}}, folder, folder.run("r"))
    store = folder.path / "datastores" / "workspaceblobstore"
    assert [each.relative_to(store).as_posix() for each in store.rglob("*") if not each.is_dir()] == [
        "results/sub/real.txt"
    ]
    assert len(lines) == 4
    assert not any(str(tmp_path) in line for line in lines)


HOSTILE = """
import os, socket, subprocess, sys
target = sys.argv[1]
for place in (target, "outputs", "logs"):
    os.symlink("/etc/passwd", f"{place}/shadow")
    os.symlink("/", f"{place}/host")
    os.symlink("../" * 30 + "etc/passwd", f"{place}/up")
    os.mkfifo(f"{place}/pipe")
    socket.socket(socket.AF_UNIX).bind(f"{place}/door")
    open(f"{place}/real.txt", "w").write("real")
    with open(f"{place}/huge", "wb") as file:
        file.truncate(1 << 43)
try:
    os.rename("outputs", "aside")
except OSError as error:
    print("outputs stays:", error.strerror)
here = os.getcwd()
for place in (target, "."):
    os.chdir(place)
    for _ in range(1200):
        os.mkdir("deep")
        os.chdir("deep")
    os.chdir(here)
os.symlink("/etc/passwd", "outputs/metrics.json")
print("attacked")
"""
UPLOAD = """
from azureml.data.data_reference import DataReference
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
store = ws.get_default_datastore()
up = DataReference(store, "up", path_on_datastore="hostile", mode="upload", overwrite=True)
"""


@pytest.mark.engine
def test_a_hostile_job_is_completed_and_its_log_says_what_stayed_behind(
    client: Client, python_image: str, source: Path, folder: Path
) -> None:
    """Links, FIFOs, sockets, holes and depth in every folder of a job: none breaks the run, none comes out."""
    (source / "train.py").write_text(HOSTILE)
    submit = SUBMIT.replace("arguments=arguments", "arguments=[str(up)]").replace(
        "run = ", "config.run_config.data_references = {'up': up.to_config()}\nrun = "
    )
    ran = client.run(
        UPLOAD + submit + WAIT, image=python_image, source=str(source), arguments=[], experiment="hostile"
    )
    assert ran["status"] == "Completed", json.dumps(ran, indent=1)
    assert "outputs stays: Device or resource busy" in ran["shown"]
    assert {name for name in ran["files"] if name.startswith(("outputs", "logs"))} == {
        *("outputs/real.txt", "outputs/huge", "logs/real.txt", "logs/huge")
    }
    store = folder / "datastores" / "workspaceblobstore" / "hostile"
    assert {each.name for each in store.rglob("*") if not each.is_dir()} == {"real.txt"}
    assert "Lockstep left out of the upload 'up': 'uploads/up/shadow', a link." in ran["shown"]
    assert "'uploads/up/huge'" in ran["shown"]
    assert "Lockstep left out of the artifacts: 'outputs/pipe', neither a file nor a folder." in ran["shown"]
    assert str(folder) not in ran["shown"] + ran["error"]
    deadline = time.monotonic() + 30
    while (folder / "runs" / ran["id"]).exists():  # removed a moment after the end is known
        assert time.monotonic() < deadline
        time.sleep(0.1)
