"""Bounds: how much one job may make the workspace keep, count or read, so that the others' requests go on."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from lockstep.workspace.daemon import Daemon
from lockstep.workspace.identity import ARM_PATH, Identity
from lockstep.workspace.metrics import Metrics
from lockstep.workspace.state import State
from tests.workspace.client import Client
from tests.workspace.test_job_rights import SUBMIT
from tests.workspace.test_rights import ARTIFACTS, HISTORY, Asker, bare

RUNS = f"{HISTORY}/experiments/bounds/runs"
MIB = 1024**2


@pytest.fixture
def run(server: Daemon, folder: Path) -> str:
    """A run that goes."""
    owner, name = Asker(server, Identity.of(folder / "identity.json").token()), f"b-{uuid.uuid4().hex[:8]}"
    owner("POST", f"{HISTORY}/experiments/bounds")
    assert owner("PATCH", f"{RUNS}/{name}", json={"status": "Running"}).status_code == 200
    return name


@pytest.fixture
def job(server: Daemon, folder: Path, run: str) -> Asker:
    """Asks with that run's token."""
    return Asker(server, Identity.of(folder / "identity.json").token(3600, run))


def test_what_is_kept_about_a_run_has_an_end(job: Asker, run: str) -> None:
    """However it grows: each of these alone would be read with every request that names the run."""
    long = "x" * MIB
    grown = {
        "tags": lambda n: job("PATCH", f"{RUNS}/{run}", json={"tags": {f"t{n}": long}}),
        "outputs": lambda n: job("PATCH", f"{RUNS}/{run}", json={"outputs": {f"o{n}": long}}),
        "warnings": lambda n: job(
            "POST", f"{RUNS}/{run}/events", json={"name": "x.Warning", "data": {"Message": long}}
        ),
        "error": lambda n: job(
            "POST",
            f"{RUNS}/{run}/events",
            json={"name": "x.Error", "data": {"ErrorResponse": {"error": long * 5}}},
        ),
        "child": lambda n: job(
            "PATCH", f"{RUNS}/{run}-c", json={"parentRunId": run, "description": long * (5 + n)}
        ),
    }
    for what, grow in grown.items():
        answers = [grow(number) for number in range(6)]
        assert answers[-1].status_code == 413, what
        assert "outputs/" in answers[-1].json()["error"]["message"]
    assert len(job("GET", f"{RUNS}/{run}").content) < 5 * MIB
    done = job("POST", f"{RUNS}/{run}/events", json={"name": "x.Run.Completed"})  # its end fits still
    assert done.status_code == 200


def test_batches_and_assets_have_an_end(job: Asker, run: str) -> None:
    """A request names at most 10,000 runs, and an asset's document is at most 1 MiB."""
    batch = f"{HISTORY}/experiments/bounds/batch"
    many = [{"runId": run}] * 10_001
    assert job("PATCH", f"{batch}/runs", json={"runs": many}).status_code == 400
    events = [{"name": "x", "data": {"RunId": run}}] * 10_001
    assert job("POST", f"{batch}/events", json={"events": events}).status_code == 400
    assets = f"/modelmanagement/v1.0{ARM_PATH}/assets"
    asset = {"name": "m", "artifacts": [{"prefix": f"ExperimentRun/dcid.{run}/outputs/m"}]}
    assert job("POST", assets, json=asset).status_code == 200
    assert job("POST", assets, json={**asset, "description": "x" * MIB}).status_code == 413


def test_a_list_of_blocks_has_an_end(job: Asker, run: str) -> None:
    """A block that is named again and again makes no blob larger than the disk has room for."""
    batch = {"paths": [{"path": "outputs/blob"}]}
    made = job("POST", f"{ARTIFACTS}/batch/metadata/ExperimentRun/dcid.{run}", json=batch).json()
    address = bare(made["artifactContentInformation"]["outputs/blob"]["contentUri"])
    nobody, listed = Asker(job.server, ""), "<Latest>YQ==</Latest>"
    assert nobody("PUT", f"{address}&comp=block&blockid=YQ==", content=b"a").status_code == 201

    def joined(count: int) -> int:
        body = f"<BlockList>{listed * count}</BlockList>"
        return nobody("PUT", f"{address}&comp=blocklist", content=body.encode()).status_code

    assert joined(50_001) == 400
    assert joined(3) == 201
    assert nobody("GET", address).content == b"aaa"


def test_a_million_metrics_without_a_step_stop_nobody(tmp_path: Path) -> None:
    """A value's place among its metric's is counted once a page, and the same across pages."""
    state = State(tmp_path / "state.sqlite")
    metrics = Metrics(state)
    rows = [{"metricId": str(number), "data": {"a": float(number)}} for number in range(40_000)]
    metrics.add_batch("long", [{"name": "a", "columns": {}, "value": rows}])
    for number in range(3):
        metrics.add_batch("other", [{"name": "a", "value": [{"metricId": f"x{number}", "data": {"a": 1.0}}]}])
        stepped = {"metricId": f"y{number}", "step": 7, "data": {"b": 1.0}}
        metrics.add_batch("other", [{"name": "b", "value": [stepped]}])
    began = time.monotonic()
    assert len(metrics.numbers_after(39_000)) == 1000
    assert time.monotonic() - began < 1
    last = metrics.numbers_after(39_990)
    found = [(row["run"], row["step"], *row["values"]) for row in last]
    assert found[:10] == [("long", step, "a") for step in range(39_990, 40_000)]
    assert found[10:] == [
        ("other", step, name) for place in range(3) for step, name in ((place, "a"), (7, "b"))
    ]
    paged, at = [], 0
    while page := metrics.numbers_after(at, 7, run="other"):
        paged += [(row["run"], row["step"], *row["values"]) for row in page[:2]]
        at = page[:2][-1]["row"]
    assert paged == found[10:]
    state.close()


MARKS = """
import os, sys, time
if os.environ["RANK"] == "1":
    with open(f"/proc/{os.getppid()}/fd/1", "wb", buffering=0) as driver:
        for rank in (b"9" * 5000, b"-1", b"1_0", "\\u0661".encode(), b"7", b""):
            driver.write(b"\\x1e" + rank + b" forged\\n")
    time.sleep(1)
    sys.exit(3)
time.sleep(1)
"""


@pytest.mark.engine
def test_a_forged_rank_ends_in_a_log_and_not_the_following(
    client: Client, python_image: str, source: Path
) -> None:
    """A process can write a line with any rank before it to the launcher's output; the run's end stays its own."""
    (source / "train.py").write_text(MARKS)
    code = """
config = ScriptRunConfig(source_directory=source, script="train.py", compute_target="cpu-cluster", environment=env,
                         distributed_job_config=PyTorchConfiguration(process_count=2, node_count=1))
run = Experiment(ws, "hostile").submit(config)
run.wait_for_completion(raise_on_error=False)
logs = run.get_details_with_logs()
result = {"status": logs["status"], "error": str(logs.get("error")), "logs": logs["logFiles"]}
"""
    ran = client.run(SUBMIT + code, image=python_image, source=str(source))
    assert ran["status"] == "Failed", ran
    assert "exit code 3" in ran["error"]
    assert sum(log.count("forged") for name, log in ran["logs"].items() if "user_logs/" in name) == 6
