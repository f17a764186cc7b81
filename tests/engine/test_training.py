"""train-local in a real container, whose image has the shell as its `python`: scripts are a few lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.engine import Engine, job_user
from lockstep.errors import JobError
from lockstep.home import Home
from lockstep.image import ImageLayer
from lockstep.image.store import Store
from lockstep.runs.job import Job
from lockstep.runs.run import RunRecord, find_run
from lockstep.training import command_line, shell_container, train_local

from .conftest import add_layer, make_image

pytestmark = pytest.mark.engine

Train = Callable[..., RunRecord]


@pytest.fixture
def shell_image(engine: Engine, store: Store, base_layer: ImageLayer, name: str) -> str:
    """The ID of an image, in the engine, whose `python` runs shell scripts."""
    python = add_layer(store, {"bin/python": b'#!/bin/sh\nexec /bin/sh "$@"\n'})
    image = make_image(base_layer, python, Labels={"test": uuid.uuid4().hex})
    engine.deliver(image, store, name)
    return image.id


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a source and a dataset."""
    (tmp_path / "project" / "src").mkdir(parents=True)
    (tmp_path / "project" / "data" / "tiny").mkdir(parents=True)
    (tmp_path / "project" / "data" / "tiny" / "x.txt").write_text("image\n")
    return tmp_path / "project"


@pytest.fixture
def lines() -> list[bytes]:
    """What the script printed."""
    return []


@pytest.fixture
def train(engine: Engine, shell_image: str, project: Path, home: Home, lines: list[bytes]) -> Train:
    """Run a shell script as the training."""

    def run(script: str, **job: object) -> RunRecord:
        (project / "src" / "train.py").write_text(script)
        return train_local(
            Job(inputs=(("data", "data/tiny"),), **job),  # type: ignore[arg-type]
            image_id=shell_image,
            lock_hash="abc",
            engine=engine,
            root=project,
            runs=project / "runs",
            home=home,
            on_line=lines.append,
        )

    return run


def test_a_run_leaves_its_outputs_its_log_and_its_record(
    train: Train, project: Path, lines: list[bytes], shell_image: str
) -> None:
    """Source and data can only be read, outputs/ can be written and belongs to the caller."""
    record = train(
        'echo "args: $*"; cat $2/x.txt; id -u; echo weights > outputs/model.pt\n'
        '(echo no > train.py) 2>/dev/null || echo "source is read-only"\n'
        '(echo no > $2/new) 2>/dev/null || echo "data is read-only"\n'
        '(echo no > /new) 2>/dev/null || echo "root is read-only"\n'
        'echo yes > $HOME/new && echo "home is writable"\n',
        arguments=("--name", 'it\'s a "test" $HOME', 3),
    )
    user = job_user((os.getuid(), os.getgid()), rootless=False)[0]
    assert [line.decode() for line in lines] == [
        *('args: --data /job/inputs/data --name it\'s a "test" $HOME 3', "image", str(user)),
        *("source is read-only", "data is read-only", "root is read-only", "home is writable"),
    ]
    folder = project / "runs" / record.id
    assert (folder / "log.txt").read_bytes() == b"".join(line + b"\n" for line in lines)
    assert (folder / "outputs" / "model.pt").read_text() == "weights\n"
    assert (folder / "outputs" / "model.pt").stat().st_uid == os.getuid()
    assert find_run(project / "runs", record.id) == record
    assert (record.status, record.exit_code, record.image_id) == ("completed", 0, shell_image)
    assert record.weights is not None
    assert record.data["data"].startswith("sha256:")
    assert record.command == ("train.py", "--data", "{data}", "--name", 'it\'s a "test" $HOME', "3")
    assert None not in (record.source_hash, record.started, record.ended, record.job_hash)


def test_a_failing_script_s_exit_code_and_outputs_are_recorded(train: Train, project: Path) -> None:
    """What it left until then is kept."""
    record = train("echo half > outputs/part.txt; exit 7")
    assert (record.status, record.exit_code, record.reason) == ("failed", 7, "exit code 7")
    assert list(find_run(project / "runs", "last").outputs) == ["part.txt"]


def test_a_killed_script_is_said_in_words(train: Train) -> None:
    """137 alone tells nobody anything."""
    record = train("kill -9 $$")
    assert record.exit_code == 137
    assert "memory" in (record.reason or "")


def test_what_is_missing_is_said_before_anything_runs(
    train: Train, project: Path, engine: Engine, home: Home
) -> None:
    """Script, data and image; no record of a run that never began."""
    for job, told in ((Job(script="x.py"), "x.py"), (Job(inputs=(("data", "data/no"),)), "data/no")):
        (project / "src" / "train.py").touch()
        with pytest.raises(JobError, match=told):
            _train(job, "sha256:0", engine, project, home)
    with pytest.raises(JobError, match="no image"):
        _train(Job(), f"sha256:{'0' * 64}", engine, project, home)
    assert not (project / "runs").exists()


def _train(job: Job, image: str, engine: Engine, project: Path, home: Home) -> RunRecord:
    return train_local(
        job,
        image_id=image,
        lock_hash=None,
        engine=engine,
        root=project,
        runs=project / "runs",
        home=home,
        on_line=print,
    )


def test_shared_memory_is_what_the_job_asks(train: Train, lines: list[bytes]) -> None:
    """PyTorch's workers need it; docker's own 64 MB are too few."""
    train(
        'while read -r _ where _ options _; do [ $where = /dev/shm ] && echo "$options"; done < /proc/mounts'
    )
    assert b"size=2097152k" in lines[0]


def test_lines_come_as_they_are_printed(train: Train, project: Path, lines: list[bytes]) -> None:
    """The first one is there long before the script ends."""
    seen = threading.Event()

    def watch() -> None:
        while not lines:
            time.sleep(0.01)
        (next((project / "runs").iterdir()) / "outputs" / "seen").touch()
        seen.set()

    threading.Thread(target=watch, daemon=True).start()
    record = train("echo first; until [ -e outputs/seen ]; do sleep 0.05; done; echo last")
    assert seen.is_set()
    assert (record.status, lines) == ("completed", [b"first", b"last"])


def test_links_and_special_files_are_not_in_the_record(
    train: Train, project: Path, lines: list[bytes]
) -> None:
    """A metrics.json that is a link to a file of this machine isn't read; a FIFO isn't waited for; the log says so."""
    (project / "host.json").write_text('{"seed": 41, "password": "secret"}')
    record = train(
        f"cd outputs; echo weights > model.pt; ln -s {project}/host.json metrics.json; ln -s / root\n"
        "mkfifo pipe; truncate -s 8T huge; ln model.pt again\n"
    )
    assert record.status == "completed"
    assert set(record.outputs) == {"model.pt", "again"}
    assert record.settings == {}
    log = (project / "runs" / record.id / "log.txt").read_text()
    for name in ("metrics.json", "root", "pipe", "huge"):
        assert f"Lockstep left out of the record: 'outputs/{name}'" in log
    assert lines[-1].startswith(b"Lockstep left out of the record: ")
    assert str(project) not in log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_only_the_run_s_own_files_are_given_to_the_caller(
    train: Train, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under sudo: what the script left is the caller's; what its links lead to stays root's."""
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1234")
    (project / "host").mkdir()
    record = train(f"echo x > outputs/file; ln -s {project}/host outputs/link; mkdir outputs/sub")
    folder = project / "runs" / record.id
    owned = (
        folder,
        folder / "outputs",
        folder / "outputs" / "file",
        folder / "outputs" / "sub",
        folder / "run.json",
    )
    assert {path.stat().st_uid for path in owned} == {1234}
    assert (project / "host").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files make others root")
def test_no_setuid_program_of_root_is_left(train: Train, project: Path) -> None:
    """The container's root is this machine's; what it leaves must not make another user root."""
    record = train("echo x > outputs/shell; chmod 6755 outputs/shell")
    left = (project / "runs" / record.id / "outputs" / "shell").stat()
    assert (left.st_uid, left.st_mode & 0o7777) == (0, 0o755)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_container_and_leaves_a_record(
    shell_image: str, project: Path, home: Home, engine: Engine, sent: signal.Signals
) -> None:
    """At once, with what there was until then."""
    (project / "src" / "train.py").write_text("echo 1 > outputs/one; echo begun; sleep 60 & wait")
    code = (
        "import sys; from pathlib import Path\n"
        "from lockstep.engine import connect; from lockstep.home import Home; from lockstep.runs.job import Job\n"
        "from lockstep.training import train_local\n"
        "image, root, home = sys.argv[1], Path(sys.argv[2]), Home(Path(sys.argv[3]))\n"
        "try:\n"
        "    train_local(Job(), image_id=image, lock_hash=None, engine=connect(install=False), root=root,\n"
        "                runs=root / 'runs', home=home, on_line=lambda line: print(line, flush=True))\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, shell_image, project, home.path],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert b"begun" in process.stdout.readline()
        os.kill(process.pid, sent)
        assert process.wait(20) == 130
    record = find_run(project / "runs", "last")
    assert (record.status, list(record.outputs), record.ended is None) == ("canceled", ["one"], False)
    running = engine.api.containers(filters={"ancestor": shell_image})
    assert running == []


def test_several_processes_go_through_torch_s_launcher() -> None:
    """All processes of all nodes run here, so that the training is the same."""
    command = command_line(Job(inputs=(("data", "d"),), arguments=(1,), nodes=2, processes=2), {"data": "/d"})
    assert command == (
        *("python", "-m", "torch.distributed.run", "--nproc-per-node", "4", "--master-addr", "127.0.0.1"),
        *("--master-port", "29500", "train.py", "--data", "/d", "1"),
    )


def test_a_shell_finds_everything_where_a_run_finds_it(
    train: Train, engine: Engine, project: Path, shell_image: str, lines: list[bytes]
) -> None:
    """The same folders, variables and shared memory, so that a command tried there works in a run; as the person."""
    look = "pwd; echo /job/inputs/*; cat /job/inputs/data/x.txt; echo $A $HOME; id -u"
    settings = {"environment_variables": (("A", "1"),), "shm_size": "48m"}
    train(look, **settings)
    in_run, lines[:] = list(lines), []
    assert in_run[1:4] == [b"/job/inputs/data", b"image", b"1 /tmp"]
    job = Job(inputs=(("data", "data/tiny"),), **settings)  # type: ignore[arg-type]
    command = ("/bin/sh", "-c", f"{look}; echo new > written")
    shell = shell_container(job, shell_image, engine, project, command)
    assert shell.shm_size == 48 << 20
    assert engine.run(shell, lines.append).code == 0
    assert lines == [*in_run[:-1], str(os.getuid()).encode()]
    assert (project / "src" / "written").read_text() == "new\n"
