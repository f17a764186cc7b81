"""Runs inside a job's container, with the container's own Python: starts the script once per process.

Standard library only, and nothing newer than Python 3.7, because the image decides which Python it is. Its one argument
is JSON: `argv`, in which `$NAME` stands for environment variables, and `processes`, a map of environment
variables for each. With several processes, each line of output begins with 0x1E, the process's rank and a
space; when one fails, the others are stopped and its exit code is the container's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 5


def main() -> int:
    """Start every process, pass their output on, and return the exit code of the first that failed, or 0."""
    job = json.loads(sys.argv[1])
    if len(job["processes"]) == 1 and not job["tagged"]:
        os.environ.update(job["processes"][0])
        argv = expanded(job["argv"], os.environ)
        os.execvp(argv[0], argv)
    started = []
    lock = threading.Lock()
    for variables in job["processes"]:
        environment = {**os.environ, **variables}
        process = subprocess.Popen(
            expanded(job["argv"], environment),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        reader = threading.Thread(target=pass_on, args=(process, variables.get("RANK", "0"), lock))
        reader.start()
        started.append((process, reader))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: send_all(started, got))
    return wait_for(started)


def send_all(started: "list[tuple[subprocess.Popen[bytes], threading.Thread]]", number: int) -> None:
    """Pass a signal on to every process."""
    for process, _ in started:
        process.send_signal(number)


def expanded(argv: list[str], environment: "os._Environ[str] | dict[str, str]") -> list[str]:
    """Replace `$NAME` and `${NAME}` in arguments; an unknown name stays as it is."""
    kept = dict(os.environ)
    os.environ.update(environment)
    try:
        return [argv[0], *(os.path.expandvars(argument) for argument in argv[1:])]
    finally:
        os.environ.clear()
        os.environ.update(kept)


def pass_on(process: "subprocess.Popen[bytes]", rank: str, lock: threading.Lock) -> None:
    """Copy a process's lines to standard output, each with its rank before it."""
    assert process.stdout is not None
    mark = b"\x1e%s " % rank.encode()
    for line in process.stdout:
        with lock:
            sys.stdout.buffer.write(mark + line)
            sys.stdout.buffer.flush()


def wait_for(started: "list[tuple[subprocess.Popen[bytes], threading.Thread]]") -> int:
    """Wait for all; when one fails, stop the others after a moment in which they may fail by themselves."""
    code = 0
    while any(process.poll() is None for process, _ in started):
        failed = [process.returncode for process, _ in started if process.poll() not in (None, 0)]
        if failed and not code:
            code = failed[0]
            deadline = time.time() + GRACE_SECONDS
            while time.time() < deadline and any(process.poll() is None for process, _ in started):
                time.sleep(0.1)
            for process, _ in started:
                if process.poll() is None:
                    process.kill()
        time.sleep(0.05)
    for _, reader in started:
        reader.join()
    code = code or next((process.returncode for process, _ in started if process.returncode), 0)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
