"""Submit: how soon the embedded workspace answers, a submitted script prints, and a metric is seen.

    ./invoke data --digits && ./invoke build && .venv/bin/python -m bench.submit

The server is stopped and started for the first; the other two use it as it then runs. Each is done several
times. A metric counts from its logging to `get_metrics` on this machine: in a run, as src/train.py logs; with the
SDK's `run.log`, which sends once a second what it has gathered; and with a `run.flush()` after that. The moments of
logging are random, because a loop that waits for what it logged falls into step with the SDK's second.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from lockstep.project import open_project
from lockstep.submission.embedded import end_embedded, start_embedded, write_config

ROOT = Path(__file__).resolve().parents[1]
TIMES = 5
SCRIPT = """
import os, pathlib, time
from metrics import Metrics
os.makedirs("outputs", exist_ok=True)
metrics = Metrics(pathlib.Path("outputs"))
for number in range(10):
    metrics.log("time", time.time(), number)
    time.sleep(0.7)
"""
METRICS = """
import json, random, sys, time
from azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
workspace = Workspace.from_config()
run = Experiment(workspace, "bench").start_logging(snapshot_directory=None)
other, seconds = Run.get(workspace, run.id), ([], [])
for number in range(40):
    time.sleep(random.random())
    name, began = f"metric{number}", time.monotonic()
    run.log(name, number)
    if number % 2:
        run.flush()
    while name not in other.get_metrics(name):
        time.sleep(0.01)
    seconds[number % 2].append(time.monotonic() - began)
run.complete()
environment = Environment("bench")
environment.python.user_managed_dependencies = True
environment.docker.base_image = sys.argv[2]
job = ScriptRunConfig(sys.argv[1], "script.py", compute_target="cpu-cluster", environment=environment)
run, seen = Experiment(workspace, "bench").submit(job), {}
while len(seen) < 10 and run.get_status() != "Failed":
    logged = run.get_metrics("time").get("time", [])  # the SDK asks for each name in turn
    for each in logged if isinstance(logged, list) else [logged]:
        seen.setdefault(each, time.time() - each)
print(json.dumps([*seconds, list(seen.values())]))
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
    with tempfile.TemporaryDirectory() as source:
        (Path(source) / "script.py").write_text(SCRIPT)
        shutil.copy(ROOT / "src" / "metrics.py", source)
        command = [sys.executable, "-W", "ignore", "-c", METRICS, source, project.settings.reference]
        ran = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    print(told("the server's start to its first answer", starts))
    print(told("`submit` to the script's first line", lines))
    gathered, flushed, in_run = json.loads(ran.stdout.splitlines()[-1])
    print(told("a metric that train.py logs to its appearance in `get_metrics`", in_run))
    print(told("with the SDK's `run.log`", gathered))
    print(told("the same, flushed", flushed))


if __name__ == "__main__":
    main()
