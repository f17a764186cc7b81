"""The workspace's values: filters, docker arguments, what a definition becomes, queues, logs."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lockstep.root import Root
from lockstep.runs import run_log
from lockstep.runs.run_log import RunLog
from lockstep.workspace.docker_arguments import DockerArguments, bytes_of, read_docker_arguments
from lockstep.workspace.fault import Fault
from lockstep.workspace.launch import LAUNCHER, Names, Place, Way, check_definition, node_container, nodes_of
from lockstep.workspace.metrics import Metrics
from lockstep.workspace.mlflow_bridge import Bridge
from lockstep.workspace.mlflow_server import MLflowServer
from lockstep.workspace.nodes import Nodes
from lockstep.workspace.query import ordered, parse_filter
from lockstep.workspace.state import State

RUN = {
    "runId": "one",
    "status": "Completed",
    "parentRunId": None,
    "createdUtc": "2026-11-23T10:00:00.000000Z",
    "tags": {"a": "b", "with space": "two words"},
    "properties": {},
}


@pytest.mark.parametrize("text", ["99999999999999999999g", "9223372036854775808", "9" * 400])
def test_shared_memory_that_no_engine_takes(text: str) -> None:
    """Refused when the run is submitted, not by the engine when it starts."""
    with pytest.raises(Fault, match="shared memory"):
        read_docker_arguments([f"--shm-size={text}"])


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", True),
        ("(Status eq Completed)", True),
        ("Status eq Failed", False),
        ("(ParentRunId eq null)", True),
        ('(Tags/a eq "b") and (Status eq Completed)', True),
        ("((Tags/a ne null or Tags/a eq null) and (Status eq Failed or RunId eq one))", True),
        ("(Tags/missing ne null or Tags/missing eq null)", False),
        ("CreatedUtc ge 2026-11-23 09:00:00", True),
        ("CreatedUtc ge 2026-11-23 11:00:00", False),
        ("RunId eq one or RunId eq two", True),
        ("RunId ne one", False),
    ],
)
def test_filters(text: str, passes: bool) -> None:
    """What the SDK writes is understood, values without quotes included."""
    assert parse_filter(text)(RUN) is passes


@pytest.mark.parametrize(
    "text", ["(", "Status", "Status eq", "Status is Completed", "(Status eq a))", "a eq b and"]
)
def test_filters_that_can_not_be_read(text: str) -> None:
    """They are refused, not ignored."""
    with pytest.raises(Fault):
        parse_filter(text)


def test_orders() -> None:
    """By a field, either way; what lacks it comes last."""
    runs = [{"n": "2"}, {"n": "1"}, {"n": None}, {"n": "3"}]
    assert [run["n"] for run in ordered(runs, "n desc")] == ["3", "2", "1", None]
    assert [run["n"] for run in ordered(runs, ["n asc"])] == ["1", "2", "3", None]


def test_docker_arguments() -> None:
    """Shared memory and variables are taken, GPUs are given anyway, the rest is refused."""
    taken = read_docker_arguments(["--shm-size", "4g", "-e", "A=b=c", "--gpus=all", "--env X=y"])
    assert taken == DockerArguments(4 * 1024**3, (("A", "b=c"), ("X", "y")))
    assert read_docker_arguments(None) == DockerArguments()
    for refused in (["--privileged"], ["-v", "/:/host"], ["--network=host"]):
        with pytest.raises(Fault, match="doesn't do the docker argument"):
            read_docker_arguments(refused)


@pytest.mark.parametrize(
    ("text", "size"), [("2g", 2 * 1024**3), ("512m", 512 * 1024**2), ("1000", 1000), ("1GB", 1024**3)]
)
def test_sizes(text: str, size: int) -> None:
    """As docker reads them."""
    assert bytes_of(text) == size


def definition(**changes: Any) -> dict[str, Any]:
    """Return a submitted definition."""
    return {
        "script": "train.py",
        "arguments": ["--lr", 0.1],
        "target": "cpu-cluster",
        "framework": "Python",
        "communicator": "None",
        "environment": {
            "docker": {"shmSize": "2g"},
            "environmentVariables": {"A": "environment", "B": "environment"},
        },
        "environmentVariables": {"B": "run", "AZUREML_RUN_ID": "forged"},
        "docker": {"shmSize": None},
        **changes,
    }


def place(tmp_path: Path) -> Place:
    """Return a node's surroundings."""
    way = Way("172.17.0.1:8200")
    return Place(tmp_path, tmp_path, tmp_path, tmp_path, (), "1000:1000", "bridge", way, "token", "door")


NAMES = Names("run_1", "experiment", "7", "workspace")


def test_a_definition_becomes_a_container(tmp_path: Path) -> None:
    """The run's variables win over its environment's, ours over both; user, shared memory and folder are set."""
    run = node_container(definition(), "sha256:1", 0, NAMES, place(tmp_path))
    assert run.environment["A"] == "environment"
    assert run.environment["B"] == "run"
    assert run.environment["AZUREML_RUN_ID"] == "run_1"
    assert run.environment["AZUREML_SERVICE_ENDPOINT"] == "https://172.17.0.1:8200"
    assert (run.user, run.shm_size, run.working_dir) == ("1000:1000", 2 * 1024**3, "/mnt/azureml/wd")
    assert "RANK" not in run.environment
    assert "MASTER_ADDR" not in run.environment


def test_a_job_asks_the_workspace_without_a_proxy(tmp_path: Path) -> None:
    """What the image, the environment or the run says is kept; the workspace's address is added."""
    there = replace(place(tmp_path), image_variables={"NO_PROXY": "image.example", "PATH": "/bin"})
    run = node_container(definition(), "sha256:1", 0, NAMES, there)
    assert run.environment["no_proxy"] == "image.example,127.0.0.1,localhost,::1,172.17.0.1"
    assert "PATH" not in run.environment
    sent = definition(environmentVariables={"no_proxy": ".corp.example", "HTTPS_PROXY": "http://proxy:1"})
    run = node_container(sent, "sha256:1", 0, NAMES, there)
    assert run.environment["NO_PROXY"] == "image.example,.corp.example,127.0.0.1,localhost,::1,172.17.0.1"
    assert run.environment["NO_PROXY"] == run.environment["no_proxy"]
    assert run.environment["HTTPS_PROXY"] == "http://proxy:1"


def test_a_distributed_definition(tmp_path: Path) -> None:
    """`processCount` counts all nodes; each node gets its rank, each process its own."""
    sent = definition(framework="PyTorch", communicator="nccl", pytorch={"processCount": 4, "nodeCount": 2})
    assert nodes_of(sent) == 2
    run = node_container(sent, "sha256:1", 1, NAMES, place(tmp_path))
    told = {key: run.environment[key] for key in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK")}
    assert told == {"MASTER_ADDR": "node-0", "MASTER_PORT": "6105", "WORLD_SIZE": "4", "NODE_RANK": "1"}
    assert '{"RANK": "2", "LOCAL_RANK": "0"}, {"RANK": "3", "LOCAL_RANK": "1"}' in run.command[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"script": None}, "neither a script nor a command"),
        ({"communicator": "IntelMpi"}, "intelmpi"),
        ({"data": {"x": {}}}, "DataReference"),
        ({"framework": "PyTorch", "pytorch": {"processCount": 3, "nodeCount": 2}}, "shared evenly"),
        ({"docker": {"arguments": ["--privileged"]}}, "--privileged"),
        ({"docker": {"arguments": ["--shm-size", "much"]}}, "much"),
    ],
)
def test_what_can_not_be_run_is_refused(changes: dict[str, Any], words: str) -> None:
    """Before there is a run, in words."""
    with pytest.raises(Fault, match=words):
        check_definition(definition(**changes))


def launched(tmp_path: Path, script: str, job: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher as a container would."""
    (tmp_path / "train.py").write_text(script)
    return subprocess.run(
        [sys.executable, str(LAUNCHER), job], cwd=tmp_path, capture_output=True, text=True, check=False
    )


def test_the_launcher_runs_a_script_as_python_would(tmp_path: Path) -> None:
    """Arguments, module search path, `__main__`, exit codes and tracebacks without the launcher's own frames."""
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    shown = "__name__, sys.argv, helper.VALUE, os.path.basename(__file__)"
    script = f"import os, sys, helper\nprint({shown})\nsys.exit(7)\n"
    ran = launched(
        tmp_path,
        script,
        '{"argv": ["train.py", "$X", "${NOT_SET}"], "processes": [{"X": "y"}], "tagged": false}',
    )
    assert ran.stdout.strip() == "__main__ ['train.py', 'y', '${NOT_SET}'] 1 train.py"
    assert ran.returncode == 7
    ran = launched(
        tmp_path,
        "def f():\n    raise ValueError('x')\nf()\n",
        '{"argv": ["train.py"], "processes": [{}], "tagged": false}',
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == "ValueError: x"
    assert "launcher.py" not in ran.stderr
    assert "runpy" not in ran.stderr


def test_the_launcher_marks_lines_by_rank(tmp_path: Path) -> None:
    """Two processes, whole lines, each with its rank before it."""
    job = '{"argv": ["train.py"], "processes": [{"RANK": "0"}, {"RANK": "1"}], "tagged": true}'
    ran = launched(
        tmp_path, "import os\nfor n in range(100):\n    print('line', n, os.environ['RANK'])\n", job
    )
    lines = ran.stdout.split("\n")  # 0x1E itself would end a line for splitlines
    for rank in ("0", "1"):
        assert [line for line in lines if line.startswith(f"\x1e{rank} ")] == [
            f"\x1e{rank} line {number} {rank}" for number in range(100)
        ]


def test_nodes_are_given_in_the_order_of_asking() -> None:
    """A big run isn't overtaken by small ones that came later, and one that gives up makes room."""
    nodes = Nodes(lambda _: 2)
    order: list[str] = []
    never, gone = threading.Event(), threading.Event()

    def run(name: str, count: int, given_up: threading.Event) -> None:
        with nodes.taken("t", count, given_up) as got:
            order.append(name if got else f"{name} gave up")
            time.sleep(0.1)

    threads = []
    for name, count, event in (
        ("first", 1, never),
        ("big", 2, never),
        ("leaves", 2, gone),
        ("small", 1, never),
    ):
        threads.append(threading.Thread(target=run, args=(name, count, event)))
        threads[-1].start()
        time.sleep(0.02)
    gone.set()
    nodes.look_again()
    for thread in threads:
        thread.join(5)
    assert order == ["first", "leaves gave up", "big", "small"]


def test_a_log_has_two_names_and_is_cut_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both names are live; beyond the limit the end is kept, with a line that says what is missing."""
    monkeypatch.setattr(run_log, "LIMIT", 100)
    monkeypatch.setattr(run_log, "TAIL_LINES", 2)
    one, two = tmp_path / "a" / "std_log.txt", tmp_path / "b" / "70_driver_log.txt"
    log = RunLog(Root(tmp_path), "a/std_log.txt", "b/70_driver_log.txt")
    log.line(b"first")
    assert two.read_text() == "first\n"
    for number in range(100):
        log.line(b"number %d" % number)
    log.close()
    told = one.read_text().splitlines()
    assert told[0] == "first"
    assert told[-2:] == ["number 98", "number 99"]
    assert "Lockstep left out" in told[-3]
    assert two.read_text() == one.read_text()


def test_a_full_disk_does_not_stop_a_log(tmp_path: Path) -> None:
    """The error is kept for the run's end."""
    log = RunLog(Root(tmp_path), "log.txt")
    log._file.close()
    log._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - the log closes it
    log.line(b"lost")
    log.close()
    assert log.broken is not None


def test_mlflow_forgets_the_folders_that_it_was_given(tmp_path: Path) -> None:
    """A database of before: runs and models get addresses for which MLflow has no reader; others are left alone."""
    server = MLflowServer(tmp_path, None)
    place = "file:///x/.lockstep/workspace/artifacts/ExperimentRun/dcid.r"
    with contextlib.closing(sqlite3.connect(server.database)) as database, database:
        database.execute("CREATE TABLE runs (run_uuid, experiment_id, artifact_uri)")
        database.execute(
            "CREATE TABLE logged_models (model_id, experiment_id, source_run_id, artifact_location)"
        )
        database.execute("INSERT INTO runs VALUES ('r', 7, ?), ('own', 8, '/mlflow/artifacts/8')", (place,))
        database.execute("INSERT INTO logged_models VALUES ('m', 7, 'r', ?)", (f"{place}/models/m",))
    state = State(tmp_path / "state.sqlite")
    Bridge(state, Metrics(state), server)._forget_folders()
    state.close()
    with contextlib.closing(sqlite3.connect(server.database)) as database:
        runs = database.execute("SELECT artifact_uri FROM runs").fetchall()
        models = database.execute("SELECT artifact_location FROM logged_models").fetchall()
    assert runs == [("azureml://experiments/7/runs/r/artifacts",), ("/mlflow/artifacts/8",)]
    assert models == [("azureml://experiments/7/runs/r/artifacts/models/m",)]
