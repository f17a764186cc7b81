"""Submitting: the same Job here and on the embedded workspace, with the real SDK over TLS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.azureml.conftest import Checkout

pytestmark = pytest.mark.engine

TELL = """
result = {"record": facts(out.record), "left": out.left, "said": said, "lines": lines,
          "line": conclusion(out.differences)}
"""


def test_submitted_run_is_the_local_one(checkout: Checkout) -> None:
    """After a local run, the submitted one ends with everything the same, the weights too."""
    told: Any = checkout.run("job = job_of('--epochs', '2')\nlocal(job)\nout = submitted(job)\n" + TELL)
    record = told["record"]
    assert record["status"] == "completed", told
    assert record["kind"] == "embedded"
    assert told["lines"][0] == "images ['one.png', 'three.png', 'two.png']"
    assert told["lines"][-1] == "Finished Training"
    assert "threads 1 rank None" in told["lines"]  # those that the local run chose
    assert told["line"] == "Same: image, lock, source, command, data, seed, threads, weights."
    folder = checkout.root / "runs" / record["id"]
    assert (folder / "outputs" / "model.pt").read_bytes() == b"weights after 2 epochs"
    assert (folder / "log.txt").read_text().endswith("Finished Training\n")
    assert json.loads((folder / "run.json").read_text())["remote_id"] == record["remote_id"]
    assert record["metrics"]["loss"] == 1.5


def test_difference_is_said(checkout: Checkout) -> None:
    """When the source changed since the local run, the closing line says so."""
    script = checkout.root / "src" / "extra.py"
    told: Any = checkout.run("job = job_of('--epochs', '3')\nlocal(job)\n")
    script.write_text("CHANGED = True\n")
    try:
        told = checkout.run("out = submitted(job_of('--epochs', '3'))\n" + TELL)
    finally:
        script.unlink()
    assert "Different: source." in told["line"]


def test_failing_script(checkout: Checkout) -> None:
    """A script that fails gives a record that says why; nothing is raised."""
    told: Any = checkout.run("out = submitted(job_of('--fail'))\n" + TELL)
    assert told["record"]["status"] == "failed"
    assert "exit code 3" in told["record"]["reason"]
    assert told["line"] == ""


def test_what_can_not_be_brought_is_left_out_and_said(checkout: Checkout) -> None:
    """A file of holes larger than the disk, a link and a FIFO: the rest is fetched, and the log names them."""
    ran: Any = checkout.run("out = submitted(job_of('--hostile'))\n" + TELL)
    assert ran["record"]["status"] == "completed", ran
    assert set(ran["record"]["outputs"]) == {"model.pt", "metrics.json"}
    assert any(
        line.startswith("Lockstep left out of the download: 'outputs/huge', ") for line in ran["lines"]
    )
    assert "Lockstep left out of the artifacts: 'outputs/link', a link." in ran["lines"]
    log = (checkout.root / "runs" / ran["record"]["id"] / "log.txt").read_text()
    assert log.splitlines() == ran["lines"]


def test_two_nodes_of_two_processes(checkout: Checkout) -> None:
    """Nodes and processes go through PyTorchConfiguration; the first process's output is shown."""
    told: Any = checkout.run("out = submitted(job_of(nodes=2, processes=2))\n" + TELL)
    assert told["record"]["status"] == "completed", told
    assert "threads 1 rank 0" in told["lines"]
    assert (told["record"]["nodes"], told["record"]["processes"]) == (2, 2)


def test_no_wait_then_logs(checkout: Checkout) -> None:
    """`--no-wait` returns at once; `logs` follows to the end and completes the record."""
    told: Any = checkout.run(
        "out = submitted(job_of('--epochs', '8'), wait=False)\n"
        "before = [*lines]\n"
        "state = remote_runs.logs(project, out.record.id, on_line=lines.append)\n"
        "files = remote_runs.download(project, out.record.id)\n"
        "logged = remote_runs.metrics(project, 'last')\n"
        "listed = [run.id for run in remote_runs.remote_runs(project)]\n"
        "from lockstep.runs.run import find_run\n"
        "result = {'before': before, 'lines': lines, 'status': state.status, 'left': out.left,\n"
        "          'record': facts(find_run(project.settings.runs, out.record.id)), 'listed': listed,\n"
        "          'files': [str(path) for path in files]}\n"
    )
    assert told["left"]
    assert told["before"] == []
    assert told["status"] == "Completed"
    assert told["record"]["status"] == "completed"
    assert told["record"]["outputs"]["model.pt"]
    assert told["record"]["remote_id"] in told["listed"]
    names = {Path(path).name for path in told["files"]}
    assert {"model.pt", "std_log.txt"} <= names


def test_cancel(checkout: Checkout) -> None:
    """A cancelled run ends as canceled; cancelling again says that it has ended."""
    told: Any = checkout.run(
        "from lockstep.errors import WorkspaceError\n"
        "out = submitted(job_of('--epochs', '600'), wait=False)\n"
        "remote_runs.cancel(project, out.record.id)\n"
        "state = remote_runs.logs(project, out.record.id, on_line=lines.append)\n"
        "try:\n"
        "    remote_runs.cancel(project, out.record.id)\n"
        "except WorkspaceError as error:\n"
        "    refused = str(error)\n"
        "from lockstep.runs.run import find_run\n"
        "result = [state.status, find_run(project.settings.runs, out.record.id).status, refused]\n"
    )
    assert told[:2] == ["Canceled", "canceled"]
    assert "has ended already" in told[2]


def test_ctrl_c_leaves_the_run_going(checkout: Checkout) -> None:
    """SIGINT while following returns at once, and the run goes on to its end."""
    told: Any = checkout.run(
        "import os, signal\n"
        "class Stop:\n"
        "    def append(self, line):\n"
        "        if line.startswith('epoch 0'):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "lines = Stop()\n"
        "out = submitted(job_of('--epochs', '9'))\n"
        "lines = []\n"
        "left = out.left\n"
        "state = remote_runs.logs(project, out.record.id, on_line=lines.append)\n"
        "result = [left, state.status, lines[-1]]\n"
    )
    assert told == [True, "Completed", "Finished Training"]


def test_registering_again_makes_no_version(checkout: Checkout) -> None:
    """The version carries image ID and lock hash, so the same image is the same version."""
    told: Any = checkout.run(
        "service = open_workspace(project)\n"
        "first, again = service.register('same', own), service.register('same', own)\n"
        "other = service.register('same', OwnImage(image_id, image_id, 'cd' * 32))\n"
        "result = [facts(first), facts(again), facts(other), image_id]\n"
    )
    first, again, other, image_id = told
    assert first == again
    assert other["version"] != first["version"]
    assert first["version"] == f"{image_id[7:23]}.{'ab' * 8}"
    assert first["image"] == image_id


def test_unknown_things_are_said_in_words(checkout: Checkout) -> None:
    """A compute target, a curated environment or a run that isn't there: each is said with a remedy."""
    told: Any = checkout.run(
        "from lockstep.errors import LockstepError\n"
        "def refusal(call):\n"
        "    try:\n"
        "        return repr(call())\n"
        "    except LockstepError as error:\n"
        "        return str(error)\n"
        "service = open_workspace(project)\n"
        "missing = project_of({'compute': 'gpu-cluster'})\n"
        "result = [\n"
        "    refusal(lambda: submit_job(missing, service, job_of(), own)),\n"
        "    refusal(lambda: service.register('x', Curated('AzureML-Minimal'))),\n"
        "    refusal(lambda: remote_runs.metrics(project, 'no_such_run_1')),\n"
        "    refusal(lambda: remote_runs.logs(project, 'nonsense')),\n"
        "]\n"
    )
    compute, curated, run, nonsense = told
    assert "no such compute target" in compute
    assert "azure.compute" in compute
    assert "only Azure has" in curated
    assert "no_such_run_1" in run
    assert "./invoke runs" in nonsense
    failed = [json.loads(path.read_text()) for path in checkout.root.glob("runs/*/run.json")]
    assert any("no such compute target" in (record["reason"] or "") for record in failed)


def test_data_goes_through_the_sdk_and_is_sent_once(checkout: Checkout) -> None:
    """Through the storage client: broken off it goes on, whole it isn't sent again, clean removes it."""
    told: Any = checkout.run(
        "service = open_workspace(project)\n"
        "folder = Path(checkout) / 'data' / 'd'\n"
        "first = service.upload(folder, 'lockstep/data/tried')\n"
        "again = service.upload(folder, 'lockstep/data/tried')\n"
        "name = 'lockstep/data/tried'\n"
        "service.remove_uploads((f'{name}.complete.json', f'{name}/train/class/one.png'))\n"
        "mended = service.upload(folder, 'lockstep/data/tried')\n"
        "shown = remote_data.clean_remote(project)\n"
        "still = service.find_data('lockstep/data/tried') is not None\n"
        "remote_data.clean_remote(project, yes=True)\n"
        "left = remote_data.clean_remote(project)\n"
        "service.remove_uploads(service.uploads('') and ())\n"
        "result = [facts(first), facts(again), facts(mended), shown.folders, still, left.folders]\n"
    )
    first, again, mended, shown, still, left = told
    assert (first["files"], first["bytes_sent"]) == (3, len("onetwothree"))
    assert (again["files"], again["bytes_sent"]) == (3, 0)
    assert mended["bytes_sent"] == len("one")
    assert "lockstep/data/tried" in [folder for folder, _, _ in shown]
    assert still
    assert left == []


@pytest.mark.slow
def test_check_azure(checkout: Checkout) -> None:
    """Every point of `submit --check-azure` holds in the embedded workspace."""
    told: Any = checkout.run(
        "from types import SimpleNamespace as Made\n"
        "import tempfile\n"
        "from lockstep.submission import azure_check\n"
        "built = Made(image=Made(id=image_id), lock=Made(hash='ab' * 32), delivery=Made(image_id=image_id))\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    check = azure_check.Check(project, Path(folder), open_workspace(project), built)\n"
        "    result = [facts(each) for each in azure_check.check_points(check)]\n"
    )
    assert len(told) == 8
    assert [each for each in told if not each["ok"]] == []


def test_check_goes_on_after_a_point_that_fails(checkout: Checkout) -> None:
    """Where runs can't be started at all, the points that need none are tried all the same."""
    told: Any = checkout.run(
        "from types import SimpleNamespace as Made\n"
        "import tempfile\n"
        "from lockstep.submission import azure_check\n"
        "built = Made(image=Made(id=image_id), lock=Made(hash='ab' * 32), delivery=Made(image_id=image_id))\n"
        "project = project_of({'compute': 'nowhere'})\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    check = azure_check.Check(project, Path(folder), open_workspace(project), built)\n"
        "    result = [[each.ok, each.told] for each in azure_check.check_points(check)]\n"
    )
    assert [ok for ok, _ in told] == [True, True, True, False, False, False, False, True]
    assert "no such compute target" in told[3][1]


@pytest.mark.parametrize("named", ["newest", "chosen:2"])
def test_a_dry_run_reads_the_environment_as_submit_does(checkout: Checkout, named: str) -> None:
    """NAME is the newest, NAME:VERSION that version, for both; the version isn't a part of the name."""
    stated: Any = checkout.run(
        "from lockstep.submission import plan, submit\n"
        "from azureml.core import Environment\n"
        "service = open_workspace(project)\n"
        "for version in ('1', '2', '3'):\n"
        "    made = Environment.from_docker_image(named.partition(':')[0], image_id)\n"
        "    made.environment_variables = {'VERSION': version}\n"
        "    made.python.user_managed_dependencies, made.python.interpreter_path = True, 'python'\n"
        "    made.version = version\n"
        "    made.register(service._sdk)\n"
        "planned = plan(project, workspace='embedded', environment=named).sends['environment']\n"
        "out = submit(project, workspace='embedded', environment=named, on_line=lines.append)\n"
        "ran = service._sdk.experiments['lockstep'].get_runs()\n"
        "ran = next(run for run in ran if run.id == out.run.id).get_details()['runDefinition']['environment']\n"
        "result = [planned['name'], planned['version'], ran['name'], ran['version'], out.record.status]\n",
        named=named,
    )
    name, version, ran_name, ran_version, status = stated
    assert (name, ran_name, status) == (named.partition(":")[0], name, "completed")
    assert (version, ran_version) == ((None, "3") if named == "newest" else ("2", "2"))
