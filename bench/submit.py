"""Submit: how soon the embedded workspace answers, a submitted script prints, and a metric is seen.

    ./invoke data --digits && ./invoke build && .venv/bin/python -m bench.submit

The server is stopped and started for the first; the other two use it as it then runs. Each is done several
times. A metric counts from the call of `run.log` to `get_metrics` of another SDK object: as it is, when the SDK
gathers metrics for a second before it sends them, and with a `run.flush()` after it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml

from lockstep.project import open_project
from lockstep.submission.embedded import end_embedded, start_embedded, write_config

ROOT = Path(__file__).resolve().parents[1]
TIMES = 5
METRICS = """
import json, time
from azureml.core import Experiment, Run, Workspace
workspace = Workspace.from_config()
run = Experiment(workspace, "bench").start_logging(snapshot_directory=None)
other, seconds = Run.get(workspace, run.id), ([], [])
for number in range(20):
    name, began = f"metric{number}", time.monotonic()
    run.log(name, number)
    if number % 2:
        run.flush()
    while name not in other.get_metrics(name):
        time.sleep(0.01)
    seconds[number % 2].append(time.monotonic() - began)
run.complete()
print(json.dumps(seconds))
"""


def first_line() -> float:
    """Return the seconds from the start of `submit` to the first line that the script printed."""
    command = [sys.executable, "-m", "invoke", "submit", "--", "--epochs", "1"]
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout is not None
        if not running.stdout.readline():
            sys.exit("submit printed nothing")
        took = time.monotonic() - began
        running.stdout.read()
    return took


def told(what: str, seconds: list[float]) -> str:
    """Return a line with the median and the range."""
    return f"{what}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Take the measurements and print them."""
    os.environ["INVOKE_JOB_DATA"] = "digits"
    project = open_project(ROOT, yaml.safe_load((ROOT / "invoke.yaml").read_text()), install=False)
    starts = []
    for _ in range(TIMES):
        end_embedded(project, reset=False)
        began = time.monotonic()
        server = start_embedded(project)
        starts.append(time.monotonic() - began)
    write_config(project)
    lines = [first_line() for _ in range(TIMES)]
    environment = {**os.environ, **server.environment()}
    command = [sys.executable, "-W", "ignore", "-c", METRICS]
    ran = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(told("the server's start to its first answer", starts))
    print(told("`submit` to the script's first line", lines))
    gathered, flushed = json.loads(ran.stdout.splitlines()[-1])
    print(told("a metric logged to its appearance in `get_metrics`", gathered))
    print(told("the same, flushed", flushed))


if __name__ == "__main__":
    main()
