"""A container runs with what it was given and nothing else, its output is live, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import docker.errors
import pytest

from lockstep.engine import ContainerRun, Engine, ExitStatus, Mount
from lockstep.engine.container import PROCESSES, container_config
from lockstep.engine.owner import LABEL, is_gone, this_process
from lockstep.errors import EngineError

pytestmark = pytest.mark.engine


def shell(image: str, script: str, **options: object) -> ContainerRun:
    """Return a run of a shell script in an image."""
    return ContainerRun(image, ("sh", "-c", script), **options)


def output(engine: Engine, run: ContainerRun) -> tuple[ExitStatus, list[bytes]]:
    """Run to the end; return how it ended and its lines."""
    lines: list[bytes] = []
    return engine.run(run, lines.append), lines


def ours(engine: Engine) -> list[str]:
    """Return the containers of this process."""
    found = engine.api.containers(all=True, filters={"label": f"{LABEL}={this_process()}"})
    return [container["Id"] for container in found]


def test_lines_of_both_streams_and_the_exit_code(engine: Engine, delivered: str) -> None:
    """Standard output and error arrive as lines, the last one without an end too, and the script's code."""
    status, lines = output(engine, shell(delivered, "echo one; echo two >&2; printf three; exit 7"))
    assert sorted(lines) == [b"one", b"three", b"two"]
    assert (status.code, status.oom_killed, status.words) == (7, False, "exit code 7")
    assert ours(engine) == []


def test_output_is_live(engine: Engine, delivered: str) -> None:
    """A line is there when it is written, not when the container ends."""
    came: list[float] = []
    engine.run(shell(delivered, "echo a; sleep 1; echo b"), lambda line: came.append(time.monotonic()))
    assert came[1] - came[0] > 0.7


def test_any_user_read_only_root_and_a_home_to_write_to(
    engine: Engine, delivered: str, tmp_path: Path
) -> None:
    """A user without a passwd entry can write to HOME and its mounts, not to the root and the data."""
    outputs, data = tmp_path / "outputs", tmp_path / "data"
    outputs.mkdir()
    data.mkdir()
    os.chown(outputs, 12345, 54321)
    script = """
        id -u; id -g; cd "$HOME" && echo hello > file && cat file
        echo result > /outputs/result
        (echo x > /data/x) 2>/dev/null || echo data is read-only
        (echo x > /x) 2>/dev/null || echo root is read-only
    """
    mounts = (Mount(outputs, "/outputs"), Mount(data, "/data", read_only=True))
    status, lines = output(engine, shell(delivered, script, user="12345:54321", mounts=mounts))
    assert lines == [b"12345", b"54321", b"hello", b"data is read-only", b"root is read-only"]
    assert status.code == 0
    result = (outputs / "result").stat()
    assert (result.st_uid, result.st_gid) == (12345, 54321)


def test_environment_folder_and_shared_memory(engine: Engine, delivered: str) -> None:
    """Variables, the working folder and the size of /dev/shm are as asked."""
    script = 'echo "$WORD"; pwd; dd if=/dev/zero of=/dev/shm/x bs=1M count=90 2>/dev/null || echo full'
    run = shell(delivered, script, environment={"WORD": "a b=c"}, working_dir="/tmp", shm_size=80 << 20)
    assert output(engine, run)[1] == [b"a b=c", b"/tmp", b"full"]


def test_no_network_unless_asked(engine: Engine, delivered: str) -> None:
    """As it comes, a container has its loopback only; with `host`, it has this machine's interfaces."""
    script = "ls /sys/class/net"
    assert output(engine, shell(delivered, script))[1] == [b"lo"]
    assert len(output(engine, shell(delivered, script, network="host"))[1]) > 1


@pytest.mark.parametrize("user", ["0:0", "12345:54321"])
def test_nobody_has_capabilities_and_nobody_gets_any(engine: Engine, delivered: str, user: str) -> None:
    """Root has none either."""
    _, lines = output(engine, shell(delivered, "cat /proc/self/status", user=user))
    facts = dict(line.decode().split(":\t") for line in lines)
    assert {facts[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"


def test_a_fork_bomb_ends_at_the_limit(engine: Engine, delivered: str) -> None:
    """A container has a number of processes; an engine that can't count them (its own word) isn't asked to."""
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 9 & done; echo all"
    status, lines = output(engine, shell(delivered, script, processes=8))
    assert status.code != 0
    assert b"all" not in lines
    assert container_config(shell(delivered, ""), has_gpus=False)["HostConfig"]["PidsLimit"] == PROCESSES
    engine._facts["PidsLimit"] = False
    try:
        assert output(engine, shell(delivered, "echo all", processes=1))[1] == [b"all"]
    finally:
        engine._facts["PidsLimit"] = True


def test_running_out_of_memory_is_said(engine: Engine, delivered: str) -> None:
    """A script that needs more memory than it may have is killed, and the status says why.

    Of a container that ends in the same moment the engine may not notice (one in ten, four at a time): then the
    status says that memory may have run out.
    """
    script = "dd if=/dev/zero of=/dev/null bs=200M count=1; code=$?; sleep 1; exit $code"
    status, _ = output(engine, shell(delivered, script, memory=32 << 20, shm_size=1 << 20))
    assert status.oom_killed
    assert "out of memory" in status.words
    assert "memory ran out" in ExitStatus(status.code).words


def test_missing_program_folder_and_image_are_said(engine: Engine, delivered: str) -> None:
    """What is missing is named, with no container left."""
    status, lines = output(engine, ContainerRun(delivered, ("nothing-like-it",)))
    assert "wasn't found" in status.words
    assert b"nothing-like-it" in lines[0]
    with pytest.raises(EngineError, match="/no/such/folder doesn't exist; it was to be mounted at /data"):
        output(engine, shell(delivered, "true", mounts=(Mount("/no/such/folder", "/data"),)))
    with pytest.raises(EngineError, match=r"hasn't got the image(.|\n)*invoke build"):
        output(engine, shell("lockstep-test/none:latest", "true"))
    assert ours(engine) == []


def test_an_engine_without_its_profile_loader_is_said(
    engine: Engine, delivered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of Debian 12's docker.io on a kernel with AppArmor, without the package: not the image's fault."""
    told = (
        "AppArmor enabled on system but the docker-default profile could not be loaded: running `apparmor_parser "
        'apparmor_parser --version` failed with output: \nerror: exec: "apparmor_parser": executable file not found '
        "in $PATH"
    )

    def refuse(_: str) -> None:
        raise docker.errors.APIError("500 Server Error", explanation=told)

    monkeypatch.setattr(engine.api, "start", refuse)
    with pytest.raises(EngineError, match=r"AppArmor(.|\n)*apt-get install apparmor"):
        output(engine, shell(delivered, "true"))


def test_ctrl_c_interrupts_and_removes(engine: Engine, delivered: str) -> None:
    """Ctrl-C reaches the script as SIGINT, so that it can say goodbye; the container is gone at once."""
    lines: list[bytes] = []

    def on_line(line: bytes) -> None:
        lines.append(line)
        os.kill(os.getpid(), signal.SIGINT)

    script = "trap 'exit 0' INT; echo ready; while true; do sleep 0.1; done"
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.run(shell(delivered, script), on_line)
    assert time.monotonic() - began < 5
    assert ours(engine) == []


def test_script_that_ignores_ctrl_c_is_killed(engine: Engine, delivered: str) -> None:
    """A script that ignores SIGINT is killed soon after."""

    def on_line(line: bytes) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.run(shell(delivered, "trap '' INT; echo ready; sleep 60"), on_line)
    assert time.monotonic() - began < 6
    assert ours(engine) == []


def test_background_container(engine: Engine, delivered: str) -> None:
    """A started container can be followed from a thread, stopped from another, and tells how it ended."""
    lines: list[bytes] = []
    with engine.start(shell(delivered, "echo up; sleep 60")) as container:
        thread = threading.Thread(target=container.follow, args=(lines.append,))
        thread.start()
        assert container.is_running
        container.stop(grace=0)
        thread.join(10)
        assert container.wait().code == 137
        assert not container.is_running
    assert lines == [b"up"]
    assert ours(engine) == []


def test_gigabytes_of_output_take_no_memory(engine: Engine, delivered: str) -> None:
    """A flood of output, a line without end among it, goes through in pieces and isn't kept by the engine."""
    got = [0, 0]

    def on_line(line: bytes) -> None:
        got[0] += len(line)
        got[1] = max(got[1], len(line))

    status = engine.run(shell(delivered, "dd if=/dev/zero bs=1M count=48 2>/dev/null"), on_line)
    assert status.code == 0
    assert got[0] == 48 << 20
    assert got[1] <= 64 * 1024


def test_containers_on_a_private_network_find_one_another(engine: Engine, delivered: str) -> None:
    """Two containers of one run are on one network under their names; it is gone in the end."""
    with engine.private_network() as network:
        assert network.gateway
        first = shell(delivered, "cat /etc/hosts", network=network.name, hostname="node-0")
        _, lines = output(engine, first)
        assert any(line.endswith(b"node-0") for line in lines)
        with engine.start(shell(delivered, "sleep 60", network=network.name, hostname="node-1")):
            inside = engine.api.inspect_network(network.name)["Containers"]
            assert len(inside) == 1
    assert engine.api.networks(names=[network.name]) == []


def test_what_a_killed_process_left_is_swept(engine: Engine, delivered: str) -> None:
    """The container of a process that was killed is removed at the next start; those of living ones stay."""
    script = f"""
import sys
from lockstep.engine import ContainerRun, connect
engine = connect(install=False)
container = engine.start(ContainerRun({delivered!r}, ("sleep", "60")))
print(container.name, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        name = process.stdout.readline().strip()
        engine.sweep()
        assert engine.api.inspect_container(name)["State"]["Running"]
        process.kill()
    assert engine.sweep() >= 1
    assert engine.api.containers(all=True, filters={"name": name}) == []


def test_owner_of_another_place_is_never_gone() -> None:
    """Only a process that certainly ended is gone: not this one, nor any of another machine or container."""
    boot, namespace, pid, start = this_process().split("/")
    assert not is_gone(this_process())
    assert not is_gone("")
    assert not is_gone(f"other/{namespace}/{pid}/1")
    assert not is_gone(f"{boot}/pid:[1]/{pid}/1")
    assert is_gone(f"{boot}/{namespace}/{pid}/1")
    assert is_gone(f"{boot}/{namespace}/4194305/{start}")


def test_a_process_that_ended_is_gone_even_as_a_zombie() -> None:
    """In a container whose first process asks about no child, zombies stay for ever."""
    boot, namespace, *_ = this_process().split("/")
    child = subprocess.Popen(["true"])
    start = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    deadline = time.monotonic() + 20
    while not is_gone(f"{boot}/{namespace}/{child.pid}/{start}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.wait()


def test_a_hostname_on_the_default_bridge_is_no_alias(engine: Engine, delivered: str) -> None:
    """The engine's default bridge knows no names: asking for one there would be refused."""
    status, _ = output(engine, shell(delivered, "exit 0", network="bridge", hostname="node-0"))
    assert status.code == 0
