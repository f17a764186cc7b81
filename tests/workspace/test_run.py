"""Runs in containers, driven with the real SDK over TLS."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.workspace.client import Client, SdkError

pytestmark = pytest.mark.engine

SUBMIT = """
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
env = Environment("image")
env.python.user_managed_dependencies = True
env.docker.base_image = image
config = ScriptRunConfig(source_directory=source, script="train.py", arguments=arguments, compute_target="cpu-cluster",
                         environment=env)
run = Experiment(ws, experiment).submit(config)
"""
WAIT = """
import io, contextlib
shown = io.StringIO()
with contextlib.redirect_stdout(shown):
    run.wait_for_completion(show_output=True, raise_on_error=False)
details = run.get_details()
result = {"status": details["status"], "shown": shown.getvalue(), "files": run.get_file_names(), "id": run.id,
          "error": (details.get("error") or {}).get("error", {}).get("message", ""), "url": run.get_portal_url()}
"""


def submitted(
    client: Client, image: str, source: Path, code: str = "", *, arguments: list[object] | None = None
) -> dict:
    """Submit the folder's train.py, wait for its end, run `code`, and return the result."""
    return client.run(
        SUBMIT + WAIT + code, image=image, source=str(source), arguments=arguments or [], experiment="runs"
    )


def test_a_script_runs_in_its_image_and_its_output_is_streamed(
    client: Client, python_image: str, source: Path
) -> None:
    """Arguments arrive as they were given, the output is shown, outputs and logs are artifacts."""
    (source / "train.py").write_text(
        "import sys, os\n"
        "print('arguments', sys.argv[1:])\n"
        "print('in', os.getcwd(), 'as', os.getuid())\n"
        "os.makedirs('outputs', exist_ok=True)\n"
        "open('outputs/model.txt', 'w').write('weights')\n"
        "print('Finished Training')\n"
    )
    ran = submitted(client, python_image, source, arguments=["--lr", 0.1, "--name", "a b $NOBODY `id`", True])
    assert ran["status"] == "Completed", ran
    assert "arguments ['--lr', '0.1', '--name', 'a b $NOBODY `id`', 'True']" in ran["shown"]
    assert "Finished Training" in ran["shown"]
    assert {"outputs/model.txt", "user_logs/std_log.txt", "azureml-logs/70_driver_log.txt"} <= set(
        ran["files"]
    )
    assert f"/runs/{ran['id']}" in ran["url"]


def test_a_failing_script_is_failed_with_its_last_lines(
    client: Client, python_image: str, source: Path
) -> None:
    """The error names the exit code and holds the exception."""
    (source / "train.py").write_text("print('before')\nraise ValueError('no such thing')\n")
    ran = submitted(client, python_image, source)
    assert ran["status"] == "Failed"
    assert "exit code 1" in ran["error"]
    assert "ValueError: no such thing" in ran["error"]


def test_a_missing_script_is_failed_and_named(client: Client, python_image: str, source: Path) -> None:
    """The snapshot's files are named, so that one sees what went wrong."""
    (source / "other.py").write_text("")
    ran = client.run(
        SUBMIT.replace('script="train.py"', 'command=["python", "train.py"]') + WAIT,
        image=python_image, source=str(source), arguments=None, experiment="runs",
    )  # fmt: skip
    assert ran["status"] == "Failed"
    assert "train.py" in ran["error"]


def test_a_missing_image_is_failed_and_named(client: Client, source: Path) -> None:
    """An image that was deleted from the engine is said to be missing."""
    (source / "train.py").write_text("print('never')")
    ran = submitted(client, "lockstep-test/gone:latest", source)
    assert ran["status"] == "Failed"
    assert "lockstep-test/gone:latest isn't in the engine" in ran["error"]


def test_cancel_stops_the_container(client: Client, python_image: str, source: Path) -> None:
    """A run that would go on for minutes is Canceled within seconds, and leaves its outputs."""
    (source / "train.py").write_text(
        "import time, os\nopen('outputs/half.txt', 'w').write('x')\nprint('going', flush=True)\ntime.sleep(300)\n"
    )
    code = """
import time
while run.get_status() != "Running" or "outputs/half.txt" not in run.get_file_names():
    time.sleep(0.1)
began = time.monotonic()
run.cancel()
while run.get_status() not in ("Canceled", "Failed", "Completed"):
    time.sleep(0.1)
result = [run.get_status(), time.monotonic() - began, run.get_file_names()]
"""
    status, took, files = client.run(
        SUBMIT + code, image=python_image, source=str(source), arguments=[], experiment="runs"
    )
    assert status == "Canceled"
    assert took < 10
    assert "outputs/half.txt" in files


def test_several_nodes_of_several_processes_find_one_another(
    client: Client, python_image: str, source: Path
) -> None:
    """Two nodes of two processes get ranks 0 to 3 and meet at MASTER_ADDR; each has a log of its own."""
    (source / "train.py").write_text(
        "import os, socket, time\n"
        "rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])\n"
        "if rank == 0:\n"
        "    met = {0}\n"
        "    with socket.create_server(('', address[1])) as door:\n"
        "        while len(met) < world:\n"
        "            met.add(int(door.accept()[0].recv(9)))\n"
        "    print('met', sorted(met))\n"
        "else:\n"
        "    for _ in range(100):\n"
        "        try:\n"
        "            socket.create_connection(address).send(b'%d' % rank)\n"
        "            break\n"
        "        except OSError:\n"
        "            time.sleep(0.1)\n"
        "print('rank', rank, 'local', os.environ['LOCAL_RANK'], 'node', os.environ['NODE_RANK'])\n"
    )
    config = SUBMIT.replace(
        "environment=env)",
        "environment=env, distributed_job_config=PyTorchConfiguration(process_count=4, node_count=2))",
    )
    code = WAIT + "result['logs'] = run.get_details_with_logs()['logFiles']"
    ran = client.run(config + code, image=python_image, source=str(source), arguments=[], experiment="nodes")
    assert ran["status"] == "Completed", ran
    assert "met [0, 1, 2, 3]" in ran["shown"]
    assert ran["logs"]["user_logs/std_log_process_3.txt"].strip() == "rank 3 local 1 node 1"
    assert ran["logs"]["azureml-logs/70_driver_log.txt"].startswith("met")


def test_one_failing_process_stops_the_others(client: Client, python_image: str, source: Path) -> None:
    """The run is Failed in seconds though the other processes would wait for minutes."""
    (source / "train.py").write_text(
        "import os, sys, time\nif os.environ['RANK'] == '1':\n    sys.exit(3)\ntime.sleep(300)\n"
    )
    config = SUBMIT.replace(
        "environment=env)",
        "environment=env, distributed_job_config=PyTorchConfiguration(process_count=2, node_count=1))",
    )
    began = time.monotonic()
    ran = client.run(config + WAIT, image=python_image, source=str(source), arguments=[], experiment="nodes")
    assert ran["status"] == "Failed"
    assert "exit code 3" in ran["error"]
    assert time.monotonic() - began < 60


def test_more_nodes_than_there_are_is_refused(client: Client, python_image: str, source: Path) -> None:
    """The refusal says how many the target has."""
    (source / "train.py").write_text("")
    config = SUBMIT.replace(
        "environment=env)", "environment=env, distributed_job_config=PyTorchConfiguration(node_count=9))"
    )
    with pytest.raises(SdkError, match="asks for 9 nodes; the compute target 'cpu-cluster' has 4"):
        client.run(config, image=python_image, source=str(source), arguments=[], experiment="nodes")


def test_an_unknown_compute_target_is_refused(client: Client, python_image: str, source: Path) -> None:
    """The refusal names the ones that exist."""
    (source / "train.py").write_text("")
    config = SUBMIT.replace('"cpu-cluster"', '"gpu-clutser"')
    with pytest.raises(SdkError, match=r"'gpu-clutser' is not in this workspace; it has 'cpu-cluster'"):
        client.run(config, image=python_image, source=str(source), arguments=[], experiment="nodes")


def test_odd_names_and_many_files_arrive(client: Client, python_image: str, source: Path) -> None:
    """Names with spaces, quotes and other alphabets, a link and an empty file are in the container as they were."""
    names = [
        "with space.txt",
        "ünïcode-日本.txt",
        "per%20cent.txt",
        "quote'.txt",
        "sub/deep/er/x.txt",
        "empty",
    ]
    for name in names:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty" else name)
    (source / "link.txt").symlink_to("with space.txt")
    (source / "train.py").write_text(
        "import json, os\n"
        "found = {}\n"
        "for parent, _, files in os.walk('.'):\n"
        "    for name in files:\n"
        "        path = os.path.relpath(os.path.join(parent, name), '.')\n"
        "        found[path] = open(path, encoding='utf-8').read() if not path.endswith('.py') else ''\n"
        "print(json.dumps(found))\n"
    )
    ran = submitted(client, python_image, source)
    assert ran["status"] == "Completed", ran
    line = next(line for line in ran["shown"].splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert {name: found[name] for name in names} == {name: "" if name == "empty" else name for name in names}
    assert found["link.txt"] == "with space.txt"


def test_the_default_datastore_reaches_a_run(
    client: Client, python_image: str, source: Path, tmp_path: Path
) -> None:
    """Data that was uploaded is seen through a data reference, mounted (read-only) and downloaded."""
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "a.txt").write_text("first")
    (data / "sub" / "b c.txt").write_text("second")
    (source / "train.py").write_text(
        "import os, sys\n"
        "for root in sys.argv[1:]:\n"
        "    print('found', open(root + '/a.txt').read(), open(root + '/sub/b c.txt').read())\n"
        "try:\n"
        "    open(sys.argv[1] + '/new', 'w')\n"
        "except OSError as error:\n"
        "    print('mounted', error.strerror)\n"
        "print('env', os.environ['AZUREML_DATAREFERENCE_one'] == sys.argv[1])\n"
    )
    upload = """
from azureml.data.data_reference import DataReference
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
store = ws.get_default_datastore()
store.upload(data, "numbers", overwrite=True, show_progress=False)
back = store.download(target, prefix="numbers", show_progress=False)
one = DataReference(store, "one", path_on_datastore="numbers", mode="mount")
two = DataReference(store, "two", path_on_datastore="numbers", mode="download")
"""
    config = SUBMIT.replace("arguments=arguments", "arguments=[str(one), str(two)]").replace(
        "run = ",
        "config.run_config.data_references = {'one': one.to_config(), 'two': two.to_config()}\nrun = ",
    )
    ran = client.run(
        upload + config + WAIT, data=str(data), target=str(tmp_path / "back"), image=python_image,
        source=str(source), arguments=[], experiment="data",
    )  # fmt: skip
    assert (tmp_path / "back" / "numbers" / "sub" / "b c.txt").read_text() == "second"
    assert ran["status"] == "Completed", ran
    assert ran["shown"].count("found first second") == 2
    assert "mounted Read-only file system" in ran["shown"]
    assert "env True" in ran["shown"]


@pytest.mark.slow
def test_a_gigabyte_of_log_is_cut_in_the_middle(
    client: Client, python_image: str, source: Path, folder: Path
) -> None:
    """The log stays small, holds beginning and end, and says how much is missing."""
    (source / "train.py").write_text(
        "import sys\nprint('first line')\n"
        "for number in range(1_000_000):\n    sys.stdout.write(f'{number:07} ' + 'x' * 1000 + chr(10))\n"
        "print('last line')\n"
    )
    code = "run.wait_for_completion(raise_on_error=False)\nresult = [run.get_status(), run.id]"
    status, run = client.run(
        SUBMIT + code, image=python_image, source=str(source), arguments=[], experiment="logs"
    )
    assert status == "Completed"
    log = folder / "artifacts" / "ExperimentRun" / f"dcid.{run}" / "user_logs" / "std_log.txt"
    assert log.stat().st_size < 70e6
    told = log.read_text()
    assert told.startswith("first line")
    assert told.endswith("last line\n")
    assert "Lockstep left out" in told


@pytest.mark.parametrize("name", ["outputs", "logs"])
def test_a_file_where_a_folder_of_the_run_s_is_to_be_is_named(
    client: Client, python_image: str, source: Path, name: str
) -> None:
    """The person reads which of the snapshot's files is in the way, not that the workspace failed."""
    (source / "train.py").write_text("print('never')\n")
    (source / name).write_text("a file")
    ran = submitted(client, python_image, source)
    assert ran["status"] == "Failed"
    assert f"a file called {name!r}" in ran["error"]
