"""Jobs in containers: what one may do with the SDK works, and one that attacks gets nowhere."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lockstep.engine import Engine
from lockstep.workspace.daemon import Daemon
from tests.workspace.client import Client

pytestmark = pytest.mark.engine

SUBMIT = """
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
from azureml.data.data_reference import DataReference
env = Environment("image")
env.python.user_managed_dependencies = True
env.docker.base_image = image
store = ws.get_default_datastore()
def submit(source, arguments=(), **references):
    config = ScriptRunConfig(source_directory=source, script="train.py", arguments=list(arguments),
                             compute_target="cpu-cluster", environment=env)
    config.run_config.data_references = {
        name: DataReference(store, name, path_on_datastore=path, mode=mode).to_config()
        for name, (path, mode) in references.items()}
    return Experiment(ws, "hostile").submit(config)
def ended(run):
    run.wait_for_completion(raise_on_error=False)
    logs = run.get_details_with_logs()
    return {"status": logs["status"], "log": logs["logFiles"].get("user_logs/std_log.txt"), "id": run.id,
            "error": logs.get("error")}
"""

RIGHTS = """
import ctypes, json, os, signal, socket, stat, subprocess, sys
found = {"ids": [os.getresuid(), os.getresgid(), os.getgroups()]}
status = open("/proc/self/status").read()
found["status"] = {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())
                   if name.startswith("Cap") or name in ("NoNewPrivs", "Seccomp")}
found["pids"] = [open(path).read().strip() for path in ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max")
                 if os.path.exists(path)]
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, call, *arguments):
    try:
        got = call(*arguments)
        if got == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        found[name] = "done"
    except OSError as error:
        found[name] = error.strerror
open("outputs/own", "w").write("own")
tried("mount", libc.mount, b"none", b"/mnt/azureml/home", b"tmpfs", 0, None)
tried("umount", libc.umount2, b"/mnt/azureml/launch.py", 2)
tried("unshare", libc.unshare, 0x00020000)
tried("chroot", os.chroot, "/tmp")
tried("chown", os.chown, "outputs/own", 0, 0)
tried("mknod", os.mknod, "outputs/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
tried("setuid", os.setuid, 0)
tried("setgroups", os.setgroups, [0])
tried("kill", os.kill, 1, 0)
tried("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
tried("launcher", open, "/mnt/azureml/launch.py", "w")
tried("bundle", os.chmod, "/mnt/azureml/ca-bundle.pem", 0o777)
tried("input", open, os.environ["AZUREML_DATAREFERENCE_numbers"] + "/new", "w")
tried("root", open, "/planted", "w")
tried("proc", open, "/proc/sys/kernel/core_pattern", "w")
open("outputs/sh", "wb").write(open("/bin/sh", "rb").read())
os.chmod("outputs/sh", 0o6755)
found["as"] = subprocess.run(["outputs/sh", "-c", "id -u"], capture_output=True, text=True).stdout.strip()
for name in ("HOME", "TMPDIR"):
    open(os.path.join(os.environ.get(name, "/tmp"), "written"), "w").write("x")
found["secrets"] = sorted(name for name in os.environ if name.startswith(("MSI", "AZURE_CONFIG")))
print(json.dumps(found))
"""


@pytest.fixture
def numbers(client: Client, python_image: str, tmp_path: Path) -> None:
    """Two folders in the datastore."""
    for name in ("numbers", "numbers2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"the {name}")
        client.run(
            SUBMIT + "store.upload(data, name, overwrite=True, show_progress=False)",
            image=python_image, data=str(tmp_path / name), name=name,
        )  # fmt: skip


def test_a_job_has_no_rights_on_this_machine(
    client: Client, python_image: str, source: Path, folder: Path, engine: Engine, numbers: None
) -> None:
    """It is nobody here where root owns the project, it can't become anybody, and what it leaves is the owner's."""
    (source / "train.py").write_text(RIGHTS)
    ran = client.run(
        SUBMIT + "result = ended(submit(source, numbers=('numbers', 'mount')))",
        image=python_image, source=str(source),
    )  # fmt: skip
    assert ran["status"] == "Completed", ran
    found = json.loads(ran["log"])
    owner = (folder.stat().st_uid, folder.stat().st_gid)
    if not engine.info().rootless:
        uid = found["ids"][0][0]
        assert found["ids"] == [[uid] * 3, [found["ids"][1][0]] * 3, [found["ids"][1][0]]]
        assert (uid == owner[0]) is (owner[0] != 0)
        assert uid != 0
        assert found["as"] == str(uid)
    zero = "0" * 16
    assert [found["status"][f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [zero] * 5
    assert (found["status"]["NoNewPrivs"], found["status"]["Seccomp"]) == ("1", "2")
    assert found["pids"] == ["16384"]
    refused = {
        "Operation not permitted",
        "Permission denied",
        "Read-only file system",
        "Device or resource busy",
    }
    for name in (
        "mount",
        "umount",
        "unshare",
        "chroot",
        "chown",
        "mknod",
        "setuid",
        "setgroups",
        "raw",
        "proc",
    ):
        assert found[name] in refused, (name, found)
    for name in ("launcher", "bundle", "input", "root"):
        assert found[name] in refused, (name, found)
    assert found["secrets"] == []
    left = folder / "artifacts" / "ExperimentRun" / f"dcid.{ran['id']}" / "outputs"
    for path in (left, *left.iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == owner, path
    assert (left / "sh").stat().st_mode & 0o7000 == 0


ATTACK = """
import json, os, ssl, sys, urllib.error, urllib.request
address, token = os.environ["AZUREML_SERVICE_ENDPOINT"], os.environ["AZUREML_RUN_TOKEN"]
scope, victim, own = os.environ["AZUREML_WORKSPACE_SCOPE"], sys.argv[1], os.environ["AZUREML_RUN_ID"]
trust = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
def ask(method, path, body=None, bearer=token):
    url = path if path.startswith("https:") else address + path
    request = urllib.request.Request(url.replace("embedded.blob.x@", ""), method=method)
    if bearer:
        request.add_header("Authorization", "Bearer " + bearer)
    if body is not None:
        request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, context=trust) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
history, artifacts = f"/history/v1.0{scope}", f"/artifact/v2.0{scope}/artifacts"
runs = f"{history}/experiments/hostile/runs"
tries = [
    ("POST", f"/execution/v1.0{scope}/runs/{victim}/cancel", {}),
    ("POST", f"{runs}/{victim}/events", {"name": "Microsoft.MachineLearning.Run.Canceled"}),
    ("PATCH", f"{runs}/{victim}", {"tags": {"planted": "1"}}),
    ("PATCH", f"{history}/experiments/hostile/batch/runs", {"runs": [{"runId": victim, "tags": {"planted": "1"}}]}),
    ("POST", f"/metric/v2.0{scope}/runs/{victim}/batch", {"values": []}),
    ("GET", f"{artifacts}/ExperimentRun/dcid.{victim}", None),
    ("GET", f"{artifacts}/contentinfo/ExperimentRun/dcid.{victim}/outputs/secret.txt", None),
    ("GET", f"{runs}/{victim}/artifacts/contentinfo?path=outputs/secret.txt", None),
    ("GET", f"{runs}/{victim}/details", None),
    ("GET", f"{runs}/{victim}/token", None),
    ("POST", f"{artifacts}/batch/metadata/ExperimentRun/dcid.{victim}", {"paths": [{"path": "outputs/planted"}]}),
    ("DELETE", f"{artifacts}/ExperimentRun/dcid.{victim}/outputs/secret.txt", None),
    ("PUT", f"/environment/v1.0{scope}/environments/image", {"name": "image", "docker": {"baseImage": "evil"}}),
    ("PUT", f"/rp/workspaces{scope}/computes/mine", {"properties": {}}),
    ("DELETE", f"/rp/workspaces{scope}/computes/cpu-cluster", None),
    ("POST", f"/execution/v1.0{scope}/experiments/hostile/snapshotrun", {"Configuration": {"command": "id"}}),
    ("POST", f"{runs}:query", {}),
    ("GET", f"/content/v2.0{scope}/snapshots/latest/metadata", None),
    ("POST", f"/mlflow/v2.0{scope}/api/2.0/mlflow/runs/search", {"experiment_ids": ["1"]}),
    ("POST", f"/mlflow/v2.0{scope}/api/2.0/mlflow/runs/delete", {"run_id": victim}),
    ("POST", f"/mlflow/v2.0{scope}/api/2.0/mlflow/runs/log-metric", {"run_id": own, "runId": victim, "key": "a"}),
    ("GET", f"/mlflow/v2.0{scope}/api/2.0/mlflow/runs/get?run_id={own}&run_id={victim}", None),
    ("GET", f"/mlflow/v2.0{scope}/api/3.0/mlflow/gateway/secrets/list", None),
]
found = {"tries": [[method, path, *ask(method, path, body)] for method, path, body in tries]}
store = json.loads(ask("GET", f"/datastore/v1.0{scope}/default")[1])["azureStorageSection"]
sas, root = store["sasToken"], f"{address}/workspaceblobstore"
found["data"] = {
    f"{method} {path}": ask(method, f"{root}{path}" + (sas if "?" not in path else "&" + sas[1:]), body, None)
    for method, path, body in [
        ("GET", "/numbers/a.txt", None), ("GET", "/numbers2/a.txt", None), ("PUT", "/numbers/a.txt", b"x"),
        ("DELETE", "/numbers2/a.txt", None), ("PUT", "/results/r.txt", b"r"), ("PUT", "/planted", b"x"),
        ("PUT", f"/azureml/{own}/note", b"n"), ("PUT", f"/azureml/{victim}/note", b"n"),
        ("GET", "?restype=container&comp=list&prefix=numbers", None),
        ("GET", "?restype=container&comp=list&prefix=", None),
    ]}
texts = [ask("GET", path)[1] for path in (scope, "/metadata/endpoints", f"{runs}/{own}", f"{runs}/{own}/details")]
texts += [ask("GET", os.environ["AZUREML_DISCOVERY_SERVICE_ENDPOINT"], None, None)[1], json.dumps(dict(os.environ))]
found["texts"] = texts
for parent, _, names in os.walk("/mnt/azureml"):
    for name in names:
        if name.endswith((".json", ".key", ".pem", ".sqlite")):
            texts.append(open(os.path.join(parent, name), errors="replace").read())
json.dump(found, open("outputs/found.json", "w"))
json.dump([address, token, sas], open("outputs/later.json", "w"))
"""


def test_a_hostile_job_reaches_nothing_but_itself(
    client: Client, python_image: str, tmp_path: Path, folder: Path, server: Daemon, numbers: None
) -> None:
    """With its token and its addresses, and after its end: all that isn't its own is refused in words."""
    from lockstep.workspace.identity import Identity

    for name, script in (
        ("victim", "import time\nopen('outputs/secret.txt', 'w').write('a secret')\ntime.sleep(300)\n"),
        ("attack", ATTACK),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(script)
    code = """
import time
victim = submit(sources[0])
while "outputs/secret.txt" not in victim.get_file_names():
    time.sleep(0.1)
attack = ended(submit(sources[1], [victim.id], numbers=("numbers", "download"), results=("results", "upload")))
result = {"attack": attack, "victim": victim.get_status(), "tags": victim.get_tags(), "id": victim.id,
          "files": victim.get_file_names(), "image": Environment.get(ws, "image").docker.base_image}
victim.cancel()
"""
    sources = [str(tmp_path / "victim"), str(tmp_path / "attack")]
    ran = client.run(SUBMIT + code, image=python_image, sources=sources)
    assert ran["attack"]["status"] == "Completed", ran
    assert (ran["victim"], ran["tags"], ran["image"]) == ("Running", {}, python_image)
    assert "outputs/secret.txt" in ran["files"]
    assert "outputs/planted" not in ran["files"]
    left = folder / "artifacts" / "ExperimentRun" / f"dcid.{ran['attack']['id']}" / "outputs"
    found = json.loads((left / "found.json").read_text())
    for method, path, status, told in found["tries"]:
        assert status == 403, (method, path, status, told)
        assert "docs/workspace.md" in json.loads(told)["error"]["message"]
    own, victim = ran["attack"]["id"], ran["id"]
    statuses = {asked: status for asked, (status, _) in found["data"].items()}
    assert statuses == {
        "GET /numbers/a.txt": 200, "GET /numbers2/a.txt": 403, "PUT /numbers/a.txt": 403,
        "DELETE /numbers2/a.txt": 403, "PUT /results/r.txt": 201, "PUT /planted": 403,
        f"PUT /azureml/{own}/note": 201, f"PUT /azureml/{victim}/note": 403,
        "GET ?restype=container&comp=list&prefix=numbers": 200, "GET ?restype=container&comp=list&prefix=": 403,
    }  # fmt: skip
    listed = found["data"]["GET ?restype=container&comp=list&prefix=numbers"][1]
    assert "numbers/a.txt" in listed
    assert "numbers2" not in listed
    identity = Identity.of(folder / "identity.json")
    for secret in (identity.key, *(identity.secret(one) for one in ("sign-in", "studio", "discovery"))):
        assert not [text for text in found["texts"] if secret in text]
    _, token, sas = json.loads((left / "later.json").read_text())
    code = """
import requests
headers = {"Authorization": "Bearer " + token}
scope = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/lockstep"
result = [requests.get(url + scope, headers=headers).status_code,
          requests.get(url + "/workspaceblobstore/numbers/a.txt" + sas).status_code,
          requests.get(url + scope).status_code]
"""
    assert client.run(code, url=server.url, token=token, sas=sas) == [401, 403, 401]


ORDINARY = """
import os, sys
from azureml.core import Datastore, Experiment, Model, Run
run = Run.get_context()
ws = run.experiment.workspace
run.log("loss", 0.5)
run.tag("quality", "good")
run.add_properties({"kind": "ordinary"})
os.makedirs("outputs/model", exist_ok=True)
open("outputs/model/weights", "w").write("weights")
run.upload_folder("model", "outputs/model")
run.upload_file("notes/n.txt", __file__)
print("names", "model/weights" in run.get_file_names())
run.download_file("notes/n.txt", "back.txt")
print("model", run.register_model("ordinary", model_path="model").version)
print("other", Model.register(ws, model_path="outputs/model", model_name="ordinary").version)
os.makedirs("fetched")
print("fetched", open(Model(ws, "ordinary", version=1).download("fetched")).read())
print("environment", run.get_environment().name)
print("details", run.get_details()["status"], run.get_status())
child = run.child_run("child")
child.log("inner", 7)
child.complete()
print("children", [one.get_metrics() for one in run.get_children()])
many = run.create_children(count=2)
print("many", len(list(run.get_children())))
print("snapshot", os.path.basename(run.restore_snapshot(path="snapshot")))
store = ws.get_default_datastore()
store.download("data", prefix="numbers", show_progress=False)
print("data", open("data/numbers/a.txt").read())
store.upload_files([__file__], target_path="azureml/" + run.id, show_progress=False)
print("targets", "cpu-cluster" in ws.compute_targets, run.get_portal_url())
try:
    store.download("data2", prefix="numbers2", show_progress=False)
except Exception as error:
    print("refused data", type(error).__name__, str(error).replace(chr(10), " "))
run.flush()
run.get_metrics()
Run.get(ws, sys.argv[1]).tag("planted", "1")
"""


def test_what_samples_do_in_a_job_works_and_a_refusal_is_read(
    client: Client, sdk_image: str, tmp_path: Path, numbers: None
) -> None:
    """Logging, files, models, children, data and source through azureml-core; then the words of a 403."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(textwrap.dedent(ORDINARY))
    code = """
victim = Experiment(ws, "hostile").start_logging(snapshot_directory=None)
run = submit(source, [victim.id], numbers=("numbers", "mount"))
result = {**ended(run), "metrics": run.get_metrics(), "tags": run.get_tags(), "victim": victim.get_tags(),
          "children": len(list(run.get_children()))}
victim.complete()
"""
    ran: dict[str, Any] = client.run(SUBMIT + code, image=sdk_image, source=str(tmp_path / "src"))
    log = ran["log"]
    for line in (
        "names True", "model 1", "other 2", "fetched weights", "environment image", "children [{'inner': 7}]", "many 3",
        "data the numbers", "targets True http://127.0.0.1:",
    ):  # fmt: skip
        assert line in log, log
    assert ran["metrics"] == {"loss": 0.5}
    assert ran["tags"]["quality"] == "good"
    assert ran["victim"] == {}
    assert ran["status"] == "Failed"
    assert "isn't good for this request (Show a run)" in log
    assert "refused data" in log
    assert "Give it a data reference to that path" in log
    assert "/studio/" not in log
    assert "azure.com" not in log


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which takes root")
def test_data_that_is_closed_to_others_reaches_a_job_of_root_s(
    client: Client, python_image: str, source: Path, folder: Path, numbers: None
) -> None:
    """Under a umask such as 077 the datastore's files are root's alone; the job that they are for reads them."""
    data = folder / "datastores" / "workspaceblobstore" / "numbers"
    data.chmod(0o700)
    (data / "a.txt").chmod(0o600)
    (source / "train.py").write_text(
        "import os\nprint(open(os.environ['AZUREML_DATAREFERENCE_numbers'] + '/a.txt').read())\n"
    )
    ran = client.run(
        SUBMIT + "result = ended(submit(source, numbers=('numbers', 'mount')))",
        image=python_image, source=str(source),
    )  # fmt: skip
    assert ran["log"].strip() == "the numbers", ran
