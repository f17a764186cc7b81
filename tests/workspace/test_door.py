"""Who gets in, and what is refused: the server stays alive, and its log holds no secret."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from lockstep.workspace.daemon import Daemon
from lockstep.workspace.identity import ARM_PATH, Identity

Ask = Callable[..., httpx.Response]


@pytest.fixture
def token(folder: Path, server: Daemon) -> str:
    """A token of the workspace."""
    return Identity.of(folder / "identity.json").token()


@pytest.fixture
def ask(server: Daemon, folder: Path, token: str) -> Ask:
    """Sends a request with the token, or with other headers."""
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))

    def ask(method: str, path: str, *, bearer: str | None = token, **more: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer is not None else {}
        headers.update(more.pop("headers", {}))  # type: ignore[call-overload]
        with httpx.Client(verify=context, trust_env=False) as client:
            return client.request(method, server.url + path, headers=headers, **more)  # type: ignore[arg-type]

    return ask


def raw(path: str) -> str:
    """Return a path that no client tidies up before it is sent."""
    return path.replace("\0", "%00").replace("..", "%2e%2e")


def test_an_answer_is_sent_without_delay(server: Daemon, folder: Path, token: str) -> None:
    """Head and body of an answer are two packets; with Nagle's algorithm the second waits 40 ms for a receipt."""
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(verify=context, trust_env=False, headers=headers) as kept:
        answers = [kept.get(server.url + ARM_PATH) for _ in range(20)]
    assert {x.status_code for x in answers} == {200}
    assert min(x.elapsed for x in answers).total_seconds() < 0.03


@pytest.mark.parametrize("bearer", [None, "nonsense", "a.b.c"])
def test_without_a_token_nothing_is_shown(ask: Ask, bearer: str | None) -> None:
    """No token, nonsense and something shaped like a JWT: 401 in Azure's form."""
    answer = ask("GET", ARM_PATH, bearer=bearer)
    assert answer.status_code == 401
    assert answer.json()["error"]["details"] == []


def test_another_key_or_an_old_token_is_refused(ask: Ask, folder: Path) -> None:
    """A JWT that another workspace signed, one without a signature, one without a holder, and one that has expired."""
    import jwt

    own = Identity.of(folder / "identity.json")
    other = jwt.encode({"exp": 9_999_999_999}, "x" * 64, "HS256")
    unsigned = jwt.encode({"exp": 9_999_999_999}, "", "none")
    of_before = jwt.encode({"exp": 9_999_999_999}, own.key, "HS256")  # jobs had such tokens, for a month
    for bearer in (other, unsigned, of_before, own.token(-10)):
        assert ask("GET", ARM_PATH, bearer=bearer).status_code == 401


def test_an_unknown_route_is_named_and_logged(ask: Ask, folder: Path) -> None:
    """A gap in what is spoken is seen at once; without a token not even that is told."""
    answer = ask("GET", "/hyperdrive/v1.0/nothing")
    assert answer.status_code == 404
    assert "GET /hyperdrive/v1.0/nothing" in answer.json()["error"]["message"]
    assert "NOT WRITTEN: GET /hyperdrive/v1.0/nothing" in (folder / "server.log").read_text()
    assert ask("GET", "/hyperdrive/v1.0/nothing", bearer=None).status_code == 401


def test_another_workspace_is_not_here(ask: Ask) -> None:
    """Another workspace, group or subscription: 404 with its name."""
    for path in (ARM_PATH.replace("embedded", "other"), ARM_PATH.replace("/lockstep/", "/else/")):
        assert ask("GET", path).status_code == 404
        assert ask("GET", f"/history/v1.0{path}/experiments/x").status_code == 404
        assert ask("POST", f"/metric/v2.0{path}/runs/x/batch", json={}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "../../identity.json",
        "a/../../../identity.json",
        "/etc/passwd",
        "..",
        "x\0y",
        "a/" + "b" * 300,
        "..%2f..%2fx",
    ],
)
def test_artifact_paths_stay_inside(ask: Ask, path: str) -> None:
    """Paths that leave their folder, absolute ones and impossible names are refused, reading and writing."""
    made = ask(
        "POST",
        f"/artifact/v2.0{ARM_PATH}/artifacts/batch/metadata/ExperimentRun/dcid.x",
        json={"paths": [{"path": path}]},
    )
    assert made.status_code == 200
    if path != "..%2f..%2fx":  # odd, but a name
        assert path in made.json()["errors"]
    read = ask("GET", f"/artifact/v2.0{ARM_PATH}/artifacts/contentinfo/ExperimentRun/dcid.x/{raw(path)}")
    assert read.status_code in (400, 404)


@pytest.mark.parametrize("container", ["%2e%2e", "%2e"])
def test_container_names_stay_inside(ask: Ask, container: str) -> None:
    """An artifact's container can't be a folder above."""
    path = f"/artifact/v2.0{ARM_PATH}/artifacts/contentinfo/ExperimentRun/{container}/identity.json"
    assert ask("GET", path).status_code in (400, 404)
    assert ask("GET", f"/artifact/v2.0{ARM_PATH}/artifacts/{container}/x").status_code in (400, 404)


def test_a_snapshot_can_not_name_files_outside(ask: Ask) -> None:
    """A tree with `..` in a name is refused."""
    child = {"name": "..", "type": "Directory", "children": {"x": {"name": "x", "type": "File"}}}
    tree = {"name": "", "type": "Directory", "children": {"..": child}}
    sent = {"ParentSnapshotId": None, "DirTreeNode": tree, "FileRevisionList": {"FileNodes": []}}
    answer = ask("POST", f"/content/v2.0{ARM_PATH}/snapshots/11111111-1111-1111-1111-111111111111", json=sent)
    assert answer.status_code == 400


def test_blobs_need_their_signature(ask: Ask, server: Daemon) -> None:
    """No signature, a wrong one, and the right one for another blob."""
    uri = ask("POST", f"/content/v2.0{ARM_PATH}/snapshots/getblob", json={"FileNames": ["a"]}).json()[
        "fileNodes"
    ][0]["blobUri"]
    path = "/" + uri.split("/", 3)[3]
    headers = {"x-ms-blob-type": "BlockBlob"}
    assert ask("PUT", path, bearer=None, content=b"x", headers=headers).status_code == 201
    bare, _, query = path.partition("?")
    other = bare[:-32] + "0" * 32
    for refused in (bare, f"{bare}?sig=1", f"{other}?{query}"):
        assert ask("PUT", refused, bearer=None, content=b"x", headers=headers).status_code == 403
        assert ask("GET", refused, bearer=None).status_code == 403


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[1, 2", b"null", b'"text"', b"[]"])
def test_bodies_that_are_not_json_objects_are_refused(ask: Ask, body: bytes) -> None:
    """400 in Azure's form, never a failure of the server."""
    for path in (f"/environment/v1.0{ARM_PATH}/environments/x", f"/metric/v2.0{ARM_PATH}/runs/x/batch"):
        method = "PUT" if "environment" in path else "POST"
        answer = ask(method, path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (path, answer.text)
        assert "details" in answer.json()["error"]


def test_a_body_of_a_gigabyte_is_refused_unread(ask: Ask, server: Daemon, folder: Path, token: str) -> None:
    """Announced or in chunks: 413, without a gigabyte in the server's memory, and it answers on."""
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
    for headers in ({"Content-Length": str(1 << 30)}, {"Transfer-Encoding": "chunked"}):
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
        connection.putrequest("PUT", f"/environment/v1.0{ARM_PATH}/environments/x")
        for name, value in {**headers, "Authorization": f"Bearer {token}"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        piece = b"x" * (1 << 20)
        try:
            for _ in range(1 << 10):
                connection.send(
                    b"%x\r\n%s\r\n" % (len(piece), piece) if "Transfer-Encoding" in headers else piece
                )
        except OSError:
            pass  # the server closed the connection: it need not read on
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert connection.getresponse().status == 413
        connection.close()
    memory = Path(f"/proc/{server.pid}/status").read_text()
    peak = int(memory.split("VmHWM:")[1].split()[0])
    assert peak < 600_000, peak
    assert ask("GET", ARM_PATH).status_code == 200


@pytest.mark.parametrize("name", ["a%00b", "a%0ab", "%2e%2e", ".a", "a%20b", "x" * 251, "%C3%A9"])
def test_a_run_can_not_have_any_name(ask: Ask, name: str) -> None:
    """Refused in words, in a path and in a body, and not made."""
    experiment = f"/history/v1.0{ARM_PATH}/experiments/names"
    assert ask("POST", experiment).status_code == 200
    refused = ask("PATCH", f"{experiment}/runs/{name}", json={"runId": "x"})
    assert refused.status_code == 400
    assert "can't be a run's id, which is 1 to 250 letters" in refused.json()["error"]["message"]
    answer = ask(
        "PATCH", f"{experiment}/batch/runs", json={"runs": [{"runId": unquote(name)}, {"runId": "fine"}]}
    )
    assert list(answer.json()["runs"]) == ["fine"]
    listed = ask("POST", f"{experiment}/runs:query", json={}).json()["value"]
    assert [run["runId"] for run in listed] == ["fine"]


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "(" * 5000 + "a eq b" + ")" * 5000, "not " * 3000, "((a eq b)", "a eq b)", "x" * 70_000],
)
def test_a_filter_that_can_not_be_read_is_refused(ask: Ask, text: str) -> None:
    """In words, whatever its length and depth."""
    answer = ask("POST", f"/history/v1.0{ARM_PATH}/experiments:query", json={"filter": text})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "BadArgument"


@pytest.mark.parametrize("word", ["and", "or"])
def test_a_long_filter_is_read(ask: Ask, word: str) -> None:
    """Many terms in a row aren't depth."""
    text = f" {word} ".join(["name eq long"] * 500)
    assert ask("POST", f"/history/v1.0{ARM_PATH}/experiments/long").status_code == 200
    answer = ask("POST", f"/history/v1.0{ARM_PATH}/experiments:query", json={"filter": text})
    assert [one["name"] for one in answer.json()["value"]] == ["long"]


@pytest.mark.parametrize(
    "children",
    [
        {"a": {"type": "File"}, "a/b": {"type": "File"}},
        {"a": {"type": "File"}, "a\\b": {"type": "File"}},
        {"a\0": {"type": "File"}},
        {"a\n": {"type": "File"}},
        {"": {"type": "File"}},
        {"x" * 256: {"type": "File"}},
        {"a": ["File"]},
        {"a": None},
        ["a"],
    ],
)
def test_a_tree_that_is_none_is_refused(ask: Ask, children: object) -> None:
    """Before a run would stumble over it; the files themselves are there."""
    uri = ask("POST", f"/content/v2.0{ARM_PATH}/snapshots/getblob", json={"FileNames": ["a"]}).json()
    address = uri["fileNodes"][0]["blobUri"]
    path = "/" + address.split("/", 3)[3]
    assert ask("PUT", path, content=b"x", headers={"x-ms-blob-type": "BlockBlob"}).status_code == 201
    nodes = (
        [{"FullName": name, "BlobUri": address} for name in children] if isinstance(children, dict) else []
    )
    sent = {
        "DirTreeNode": {"type": "Directory", "children": children},
        "FileRevisionList": {"FileNodes": nodes},
    }
    answer = ask("POST", f"/content/v2.0{ARM_PATH}/snapshots/22222222-2222-4222-8222-222222222222", json=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("BadArgument", "InvalidName")


def test_a_snapshot_without_hashes_is_complete_for_others(ask: Ask) -> None:
    """The SDK compares its files with the newest snapshot, whoever sent that, and reads five fields of each node."""
    uri = ask("POST", f"/content/v2.0{ARM_PATH}/snapshots/getblob", json={"FileNames": ["a"]}).json()
    address = uri["fileNodes"][0]["blobUri"]
    path = "/" + address.split("/", 3)[3]
    assert ask("PUT", path, content=b"x", headers={"x-ms-blob-type": "BlockBlob"}).status_code == 201
    folder = {"children": {"a": {"type": "File", "hash": None}}}
    sent = {
        "DirTreeNode": {"children": {"f": folder}},
        "FileRevisionList": {"FileNodes": [{"FullName": "f/a", "BlobUri": address}]},
    }
    content = f"/content/v2.0{ARM_PATH}/snapshots"
    assert ask("POST", f"{content}/33333333-3333-4333-8333-333333333333", json=sent).status_code == 200
    root = ask("GET", f"{content}/latest/metadata").json()["root"]
    inner = root["children"]["f"]
    for node in (root, inner, inner["children"]["a"]):
        assert {"name", "type", "hash", "timestamp", "children"} <= node.keys()
        assert None not in node.values()
    assert (inner["type"], inner["children"]["a"]["type"]) == ("Directory", "File")


def test_a_path_can_not_write_lines_into_the_log(ask: Ask, folder: Path) -> None:
    """A line break in an address is written as what it is."""
    ask("GET", "/no%0a2026-01-01 00:00:00,000 INFO forged%1b[2J")
    logged = (folder / "server.log").read_text()
    assert "\\n2026-01-01 00:00:00,000 INFO forged\\x1b[2J" in logged
    assert "\n2026-01-01" not in logged


def test_other_hosts_are_refused(ask: Ask) -> None:
    """A page that rebinds its name to loopback gets nothing."""
    assert ask("GET", "/metadata/endpoints", headers={"Host": "evil.example"}).status_code == 400


def test_secret_addresses(ask: Ask, server: Daemon) -> None:
    """Sign-in and discovery open only to who knows their addresses."""
    for path in ("/MSI/wrong/token", "/discovery/wrong"):
        assert ask("POST" if "MSI" in path else "GET", path, bearer=None).status_code == 401
    path = server.environment()["MSI_ENDPOINT"].removeprefix(server.url)
    assert ask("POST", path, bearer=None).json()["token_type"] == "Bearer"
    own = ask("GET", ARM_PATH).json()["properties"]["discoveryUrl"].removeprefix(server.url)
    assert ask("GET", own, bearer=None).json()["api"] == server.url


def test_the_studio_lets_in_who_has_its_address(server: Daemon, ask: Ask) -> None:
    """Without the cookie 401; the portal URL's secret gives it; a wrong one doesn't. Then a job's URL opens too."""
    ask("POST", f"/history/v1.0{ARM_PATH}/experiments/studio")
    ask("PATCH", f"/history/v1.0{ARM_PATH}/experiments/studio/runs/of-a-job", json={})
    base = f"http://127.0.0.1:{server.studio_port}"
    with httpx.Client(base_url=base, trust_env=False) as browser:
        assert browser.get("/").status_code == 401
        assert browser.get("/studio/wrong/runs/x").status_code == 401
        assert browser.get("/runs/of-a-job").status_code == 401
        assert browser.get("/", headers={"Host": "evil.example"}).status_code == 400
        entered = browser.get(server.studio.removeprefix(base))
        assert entered.status_code == 303
        assert browser.get("/runs/of-a-job").headers["location"].endswith("/runs/of-a-job/model-metrics")
        assert browser.get("/").status_code in (200, 404, 503)  # 404: MLflow isn't installed here


def test_it_listens_on_this_machine_only(server: Daemon) -> None:
    """Loopback, and at most the engine's own network; the state folder is closed to others."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = {line.split()[1] for line in lines if line.split()[3] == "0A"}
    ours = {one for one in listening if int(one.split(":")[1], 16) in (server.port, server.studio_port)}
    addresses = {".".join(str(part) for part in bytes.fromhex(one.split(":")[0])[::-1]) for one in ours}
    assert "127.0.0.1" in addresses
    assert all(one.startswith(("127.", "172.", "10.", "192.168.")) for one in addresses)
    assert server.folder.stat().st_mode & 0o077 == 0


def test_the_log_holds_no_secrets(ask: Ask, folder: Path, server: Daemon, token: str) -> None:
    """Neither tokens nor keys nor the secret parts of addresses."""
    ask("GET", ARM_PATH)
    ask("POST", server.environment()["MSI_ENDPOINT"].removeprefix(server.url), bearer=None)
    told = (folder / "server.log").read_text()
    identity = json.loads((folder / "identity.json").read_text())
    own = Identity.of(folder / "identity.json")
    for secret in (
        token,
        identity["key"],
        *(own.secret(one) for one in ("sign-in", "discovery", "studio")),
        "sig=",
    ):
        assert secret not in told
