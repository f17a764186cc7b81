"""Runs inside a job's container, with the container's own Python: runs the script once per process.

Standard library only, and nothing newer than Python 3.7, because the image decides which Python it is. Its
one argument is JSON: `argv`, the script and its arguments, in which `$NAME` stands for environment
variables; `processes`, a map of environment variables for each; and `tagged`: whether each line of output
begins with 0x1E, the process's rank and a space. When one process fails, the others are stopped and its exit
code is the container's.

The script runs inside this program, as Azure ML runs it inside one of its own: what `run.log` holds back for
a second is sent when the script ends. The interpreter's end would be too late, its threads are gone by then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import types

GRACE_SECONDS = 5


def main() -> int:
    """Run the script here, or in several processes; return the exit code."""
    job = json.loads(sys.argv[1])
    if len(job["processes"]) == 1 and not job["tagged"]:
        os.environ.update(job["processes"][0])
        return run_script(job["argv"][0], [os.path.expandvars(argument) for argument in job["argv"][1:]])
    started = []
    lock = threading.Lock()
    for variables in job["processes"]:
        one = json.dumps({"argv": job["argv"], "processes": [variables], "tagged": False})
        process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), one], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        reader = threading.Thread(target=pass_on, args=(process, variables.get("RANK", "0"), lock))
        reader.start()
        started.append((process, reader))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: send_all(started, got))
    return wait_for(started)


def run_script(script: str, arguments: list[str]) -> int:
    """Run a script as `python script …` would, then send what azureml-core still holds."""
    path = os.path.abspath(script)
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(path)
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module  # for good: what is pickled by the script's own classes is found in it
    try:
        with open(path, "rb") as source:
            code = compile(source.read(), path, "exec")
        exec(code, module.__dict__)  # noqa: S102 - running the user's script is what this is for
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:  # printed as the interpreter would, without this program's own frames
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != path:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames or error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        send_metrics()
    return 0


def send_metrics() -> None:
    """Flush the metrics of this process's runs, if it used azureml-core."""
    module = sys.modules.get("azureml.core.run")
    submitted = getattr(module, "_SubmittedRun", None)
    for run in list(getattr(submitted, "_SubmittedRun__instances", {}).values()):
        try:
            run.flush()
        except Exception as error:
            print(f"Metrics could not be sent: {error}", file=sys.stderr)


def send_all(started: list[tuple[subprocess.Popen[bytes], threading.Thread]], number: int) -> None:
    """Pass a signal on to every process."""
    for process, _ in started:
        process.send_signal(number)


def pass_on(process: subprocess.Popen[bytes], rank: str, lock: threading.Lock) -> None:
    """Copy a process's lines to standard output, each with its rank before it."""
    assert process.stdout is not None
    mark = b"\x1e%s " % rank.encode()
    for line in process.stdout:
        with lock:
            sys.stdout.buffer.write(mark + line)
            sys.stdout.buffer.flush()


def wait_for(started: list[tuple[subprocess.Popen[bytes], threading.Thread]]) -> int:
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
