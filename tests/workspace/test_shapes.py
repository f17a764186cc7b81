"""Whatever is sent to whichever route: an answer at once, and never one that says that the server failed."""

from __future__ import annotations

import copy
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from lockstep.workspace.daemon import Daemon
from lockstep.workspace.identity import ARM_PATH, NAME, RESOURCE_GROUP, SUBSCRIPTION, Identity
from lockstep.workspace.routes import ALL

SNAPSHOT = "11111111-1111-4111-8111-111111111111"
PROMPT_SECONDS = 5.0
NESTED = 50_000

ANYTHING: tuple[Any, ...] = (
    None,
    [],
    {},
    [1, 2],
    {"": {"b": [None]}},
    0,
    -1,
    2**70,
    float("nan"),
    True,
    "",
    "text",
    "a\0b",
    "\ud800",
    "../..",
)
"""What is put in the place of each part of a right body."""

ODD_NAMES = ("a%00b", "%0d%0a", "%ff%fe", "..", "%2e%2e%2f%2e%2e", "a" * 300, "9" * 23, "%F0%9F%98%80%3Fx")
OWN = {
    "subscription": SUBSCRIPTION,
    "group": RESOURCE_GROUP,
    "workspace": NAME,
    "experiment": "shapes",
    "experiment_id": "1",
    "run": "shapes_run",
    "snapshot": SNAPSHOT,
    "environment": "shapes",
    "compute": "shapes",
    "datastore": "workspaceblobstore",
    "version": "1",
    "label": "latest",
    "origin": "ExperimentRun",
    "container": "dcid.shapes_run",
    "path": "outputs/a.txt",
    "asset": "1",
    "model": "shapes:1",
    "method": "mlflow/runs/log-batch",
    "secret": "wrong",
    "tenant": "t",
    "kind": "artifacts",
    "blob": b"ExperimentRun/dcid.shapes_run/a.txt".hex(),
}

DEFINITION = {
    "script": "train.py",
    "arguments": ["--epochs", 1],
    "command": None,
    "target": "shapes",
    "framework": "PyTorch",
    "communicator": "Gloo",
    "nodeCount": 90,
    "maxRunDurationSeconds": 5,
    "pytorch": {"communicationBackend": "gloo", "processCount": 90, "nodeCount": 90},
    "environment": {
        "name": "shapes",
        "version": None,
        "python": {"userManagedDependencies": True, "interpreterPath": "python", "condaDependencies": {}},
        "environmentVariables": {"A": "b"},
        "docker": {"baseImage": "nothing", "shmSize": "2g", "arguments": ["--ipc", "host"]},
    },
    "environmentVariables": {"A": "b"},
    "docker": {"shmSize": "2g", "arguments": ["-e", "A=b"]},
    "dataReferences": {
        "a": {"dataStoreName": "workspaceblobstore", "mode": "Mount", "pathOnDataStore": "a"},
    },
    "history": {"directoriesToWatch": ["logs"]},
}
"""A run that asks for more nodes than there are, so that what is right in shape is refused too, and never starts."""

RUN = {
    "runId": "shapes_run",
    "parentRunId": None,
    "status": "Running",
    "name": "n",
    "displayName": "d",
    "description": "d",
    "target": "t",
    "hidden": False,
    "tags": {"a": "b"},
    "properties": {"a": "b"},
    "inputs": {"a": {}},
    "outputs": {"a": {}},
}
EVENT = {
    "name": "Microsoft.MachineLearning.Run.Warning",
    "data": {
        "RunId": "shapes_run",
        "Source": "a",
        "Message": "b",
        "ErrorResponse": {"error": {"message": "m"}},
    },
}
ERROR = {**EVENT, "name": "Microsoft.MachineLearning.Run.Error"}
METRICS = {
    "values": [
        {
            "name": "loss",
            "columns": {"loss": "double"},
            "properties": {"uxMetricType": "azureml.v1.scalar"},
            "value": [
                {
                    "metricId": "1",
                    "createdUtc": "2026-01-01T00:00:00.000000Z",
                    "step": 1,
                    "data": {"loss": 0.5},
                }
            ],
        }
    ]
}
SNAPSHOT_BODY = {
    "ParentSnapshotId": None,
    "DirTreeNode": {
        "name": "",
        "type": "Directory",
        "children": {
            "src": {
                "name": "src",
                "type": "Directory",
                "children": {"a.py": {"name": "a.py", "type": "File", "children": {}}},
            }
        },
    },
    "FileRevisionList": {
        "FileNodes": [{"FullName": "src/a.py", "BlobUri": "https://x/y/" + "a" * 32, "FileSize": 1}]
    },
}
COMPUTE = {
    "location": "local",
    "properties": {
        "computeType": "AmlCompute",
        "properties": {"vmSize": "v", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 2}},
    },
}
LOG_BATCH = {
    "run_id": "shapes_run",
    "metrics": [{"key": "a", "value": 1.0, "timestamp": 1, "step": 0}],
    "params": [],
    "tags": [{"key": "a", "value": "b"}],
}
QUERY = {
    "filter": "(Tags/a eq b)",
    "top": 1,
    "orderby": "StartTimeUtc asc",
    "continuationToken": None,
    "viewType": "All",
}

RIGHT: dict[str, list[Any]] = {
    "PATCH {WS}/experiments/{experiment}": [{"tags": {"a": "b"}, "description": "d", "archive": False}],
    "DELETE {WS}/experiments/{experiment}/tags": [["a"], {"tags": ["a"]}],
    "POST {WS}/experimentids/{experiment_id}/tags:delete": [{"tags": ["a"]}],
    "POST {WS}/experiments:query": [QUERY],
    "PATCH {WS}/experiments/{experiment}/runs/{run}": [RUN],
    "PATCH {WS}/experiments/{experiment}/batch/runs": [{"runs": [RUN]}],
    "POST {WS}/experiments/{experiment}/runs:query": [QUERY],
    "POST {WS}/experiments/{experiment}/runs/{run}/events": [EVENT, ERROR],
    "POST {WS}/experiments/{experiment}/batch/events": [{"events": [EVENT]}],
    "DELETE {WS}/experiments/{experiment}/runs/{run}/tags": [["a"], {"values": ["a"]}],
    "POST {WS}/experiments/{experiment}/snapshotrun": [
        {"SnapshotId": SNAPSHOT, "ParentRunId": None, "Configuration": DEFINITION}
    ],
    "POST {WS}/runs/{run}/batch": [METRICS],
    "POST {WS}/runs/{run}/list": [{}],
    "POST {WS}/runs/{run}/full": [{"metricName": "loss"}],
    "POST {WS}/artifacts/batch/metadata/{origin}/{container}": [{"paths": [{"path": "a.txt"}]}],
    "POST {WS}/snapshots/getblob": [{"FileNames": ["a.py"]}],
    "POST {WS}/snapshots/{snapshot}": [SNAPSHOT_BODY],
    "PUT {WS}/environments/{environment}": [DEFINITION["environment"]],
    "PUT {WS}/computes/{compute}": [COMPUTE],
    "POST {WS}/assets": [{"name": "a", "artifacts": [{"prefix": "p"}]}],
    "POST {WS}/models": [
        {"name": "shapes", "kvTags": {"a": "b"}, "properties": {"a": "b"}, "runId": "shapes_run"}
    ],
    "POST {WS}/api/2.0/{method:path}": [LOG_BATCH],
}
"""What a client sends that knows the service, by the end of the route's line; each of its parts is then spoiled."""

Send = Callable[..., httpx.Response]


@pytest.fixture
def send(server: Daemon, folder: Path) -> Iterator[Send]:
    """Sends a request with the workspace's token, and asserts that its answer is prompt and no failure."""
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
    bearer = {"Authorization": f"Bearer {Identity.of(folder / 'identity.json').token()}"}
    with httpx.Client(verify=context, trust_env=False, headers=bearer, timeout=60) as client:

        def send(method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> httpx.Response:
            content = raw if raw is not None else json.dumps(body).encode() if body is not None else None
            began = time.monotonic()
            answer = client.request(method, server.url + path, content=content)
            took = time.monotonic() - began
            sent = (content or b"")[:2000]
            assert answer.status_code < 500, (method, path, sent, answer.text)
            assert "ServiceError" not in answer.text, (method, path, sent, answer.text)
            assert took < PROMPT_SECONDS, (method, path, sent, took)
            return answer

        right = f"/history/v1.0{ARM_PATH}/experiments/shapes"
        assert send("POST", right).status_code == 200
        assert send("PATCH", f"{right}/runs/shapes_run", RUN).status_code == 200
        yield send


def lines() -> list[tuple[str, str]]:
    """Return the method and path of every route."""
    return [
        (method, route.path) for routes in ALL for route in routes.table for method in sorted(route.methods)
    ]


def filled(route: str, folder: Path, **odd: str) -> str:
    """Return a route's path with a name for each of its parameters, and a signature where it needs one."""
    names = {**OWN, **odd}
    made = re.sub(r"{(\w+)(:path)?}", lambda found: names[found[1]], route)
    identity = Identity.of(folder / "identity.json")
    resource = {
        "/files/": f"files {names['origin']}/{names['container']}/{names['path']}",
        "/zips/": f"zips/{names['snapshot']}",
        "/workspaceblobstore": "datastore workspaceblobstore",
        "/embedded.blob": f"{names['kind']}/{names['blob']}",
    }
    for start, signed in resource.items():
        if route.startswith(start):
            return f"{made}?sig={quote(identity.sign(httpx.URL('http://x/' + signed).path[1:]))}"
    return made


def parts(body: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each part of a body, the whole first."""
    yield where
    for step, inner in (
        body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    ):
        yield from parts(inner, (*where, step))


def spoiled(body: Any, where: tuple[Any, ...], value: Any) -> Any:
    """Return a body with `value` at one place."""
    if not where:
        return value
    changed = copy.deepcopy(body)
    part = changed
    for step in where[:-1]:
        part = part[step]
    part[where[-1]] = value
    return changed


def without(body: Any, where: tuple[Any, ...]) -> Any:
    """Return a body that lacks one part."""
    changed = copy.deepcopy(body)
    part = changed
    for step in where[:-1]:
        part = part[step]
    del part[where[-1]]
    return changed


def route_of(line: str) -> tuple[str, str]:
    """Return method and path of the one route that a line of RIGHT means."""
    method, _, end = line.partition(" ")
    end = end.replace("{WS}", "{workspace}")
    found = [path for known, path in lines() if known == method and path.endswith(end)]
    assert found, line
    return method, found[0]


@pytest.mark.parametrize("line", RIGHT)
def test_each_part_of_a_body_may_be_anything(send: Send, folder: Path, line: str) -> None:
    """A part of another type, or none, in an else right body: done or refused in words. What it left can be read."""
    method, route = route_of(line)
    path = filled(route, folder)
    for body in RIGHT[line]:
        right = send(method, path, body)
        assert right.status_code == 200 or "snapshot" in line.lower() or "{method" in line, right.text
        for where in parts(body):
            for value in ANYTHING:
                send(method, path, spoiled(body, where, value))
            if where:
                send(method, path, without(body, where))
    for known, other in lines():
        if known == "GET" and "mlflow" not in other:
            send(known, filled(other, folder))
    for query in ("experiments:query", "experiments/shapes/runs:query"):
        answer = send(
            "POST", f"/history/v1.0{ARM_PATH}/{query}", {"filter": "(Tags/a eq b)", "viewType": "All"}
        )
        assert answer.status_code == 200


def test_every_route_takes_any_body(send: Send, folder: Path) -> None:
    """Routes that expect a body and those that don't: a list, a number, nothing, a text, 50,000 lists in each other."""
    deep = b"[" * NESTED + b"]" * NESTED
    deep_map = b'{"a":' * NESTED + b"1" + b"}" * NESTED
    for method, route in lines():
        if method not in ("GET", "HEAD"):
            for raw in (deep, deep_map, b"{", b"\xff\xfe", b"1e999", b"9" * 5000, b'{"a":"\\ud800"}', b"NaN"):
                send(method, filled(route, folder), raw=raw)
            for body in ANYTHING:
                send(method, filled(route, folder), body)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_route_takes_any_name(send: Send, folder: Path, name: str) -> None:
    """Each parameter of each path, one after the other, with a name that nobody gave; the workspace's own once."""
    tried = set[str]()
    for method, route in lines():
        for parameter in set(re.findall(r"{(\w+)", route)) - tried:
            tried |= {parameter} & {"subscription", "group", "workspace"}
            send(method, filled(route, folder, **{parameter: name}), {} if method != "GET" else None)
