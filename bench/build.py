"""Build against `docker build`: ratios taken side by side, on one machine, in one run.

    ./invoke build && .venv/bin/python -m bench.build

`docker build` gets what it can best use: the same wheels from this disk over loopback, no index, no cache
of its own. Its base is an image of the same Python without the wheels. The images of this project are
removed from the engine and made again; the store and the downloads stay. Each round does all four builds,
one after the other; three take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lockstep.home import Home
from lockstep.lock import Lock, read_lock

ROOT = Path(__file__).resolve().parents[1]
BASE = "lockstep-bench/python:latest"
THEIRS = "lockstep-bench/docker-build:latest"
PINS = ("torch==2.14.1", "torchvision==0.29.1")
MORE = (*PINS, "humanize==4.13.0")
LOCK = ROOT / "environments" / "pytorch-env.conda-lock.yml"


def invoke(root: Path, *words: str, home: Path | None = None) -> tuple[float, dict[str, Any]]:
    """Run a task of a checkout; return its seconds, as a whole process, and what it told."""
    environment = {**os.environ, **({"LOCKSTEP_HOME": str(home)} if home else {})}
    command = [sys.executable, "-m", "invoke", "--search-root", str(root), *words, "--json"]
    os.sync()  # what was written before isn't this build's
    began = time.monotonic()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return time.monotonic() - began, json.loads(done.stdout)


def remove_images() -> None:
    """Take the images that have Lockstep's label, and what stands on them, out of the engine."""
    ours = ["docker", "images", "-qa", "--no-trunc", "--filter", "label=io.lockstep.lock.hash"]
    listed = subprocess.run(ours, capture_output=True, text=True, check=True).stdout.split()
    if listed:
        subprocess.run(["docker", "rmi", "-f", *dict.fromkeys(listed)], capture_output=True, check=False)


def checkout(folder: Path, *, wheels: tuple[str, ...], name: str, lock: Path | None = None) -> Path:
    """Return a copy of this checkout with a spec of these wheels and an image name of its own."""
    for part in ("lockstep", "src", "docker", "environments", "requirements"):
        shutil.copytree(
            ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.conda-lock.yml")
        )
    for part in ("tasks.py", ".dockerignore"):
        shutil.copy(ROOT / part, folder / part)
    settings = (ROOT / "invoke.yaml").read_text().replace("lockstep/pytorch-env", name)
    (folder / "invoke.yaml").write_text(settings)
    lines = ["name: bench", "channels: [conda-forge]", "dependencies:", "  - python=3.11", "  - pip"]
    if wheels:
        lines += ["  - pip:", *(f"      - {wheel}" for wheel in wheels)]
    (folder / "environments" / "pytorch-env.yml").write_text("\n".join(lines) + "\n")
    if lock:
        shutil.copy(lock, folder / "environments" / "pytorch-env.conda-lock.yml")
    return folder


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder of wheels on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def docker_build(folder: Path, url: str, wheels: tuple[str, ...]) -> float:
    """Build the image as people do, and return the seconds."""
    (folder / "requirements.txt").write_text("\n".join(wheels) + "\n")
    (folder / "Dockerfile").write_text(
        f"FROM {BASE}\nCOPY requirements.txt /\n"
        f"RUN pip install --no-cache-dir --no-index --find-links {url} -r /requirements.txt\n"
    )
    os.sync()
    began = time.monotonic()
    subprocess.run(
        ["docker", "build", "--network", "host", "-t", THEIRS, str(folder)],
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        check=True,
    )
    return time.monotonic() - began


def wheels_of(lock: Lock, home: Home, folder: Path) -> None:
    """Link a lock's wheels into a folder under the names that pip knows them by."""
    for package in lock.packages:
        target = folder / package.filename
        if package.manager == "pip" and not target.exists():
            os.link(home.package(package.sha256), target)


def fresh_home(home: Home, folder: Path) -> Path:
    """Return a store that has the downloads of `home`, and nothing made of them."""
    folder.mkdir()
    for part in ("packages", "bootstrap"):
        subprocess.run(["cp", "-al", str(home.path / part), str(folder / part)], check=True)
    return folder


def one_round(home: Home, bare: Path, work: Path) -> dict[str, float]:
    """Build with Lockstep and with `docker build`, from nothing and with a package more; return the seconds."""
    work.mkdir()
    for part in ("wheels", "context"):
        (work / part).mkdir()
    wheels_of(read_lock(LOCK), home, work / "wheels")
    cold_home = fresh_home(home, work / "cold")
    remove_images()
    ours = checkout(work / "ours", wheels=PINS, name="lockstep/pytorch-env", lock=LOCK)
    shutil.copy(ROOT / "environments" / "pytorch-env.yml", ours / "environments" / "pytorch-env.yml")
    cold, stages = invoke(ours, "build", home=cold_home)
    print(f"cold build, of which: {stages['seconds']}", file=sys.stderr)

    changed = checkout(work / "changed", wheels=MORE, name="lockstep/pytorch-env", lock=LOCK)
    small, _ = invoke(changed, "build", home=cold_home)
    new_lock = read_lock(changed / "environments" / "pytorch-env.conda-lock.yml")
    wheels_of(new_lock, Home(cold_home), work / "wheels")

    remove_images()
    invoke(bare, "build")
    with served(work / "wheels") as url:
        theirs_cold = docker_build(work / "context", url, PINS)
        theirs_small = docker_build(work / "context", url, MORE)
    remove_images()
    shutil.rmtree(work)
    return {"cold": cold, "small": small, "their cold": theirs_cold, "their small": theirs_small}


def told(what: str, found: list[dict[str, float]], ours: str, theirs: str) -> str:
    """Return a line with medians, their ranges, and the median of the rounds' ratios."""

    def middle(name: str) -> str:
        seconds = sorted(x[name] for x in found)
        return f"{statistics.median(seconds):.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})"

    ratio = statistics.median(x[theirs] / x[ours] for x in found)
    return f"{what}: {middle(ours)}; docker build: {middle(theirs)}; {ratio:.2f} times faster"


def main() -> None:
    """Take every measurement and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    home = Home.default()
    nothing = statistics.median(invoke(ROOT, "build")[0] for _ in range(5))
    with tempfile.TemporaryDirectory(dir=home.path) as temporary:
        work = Path(temporary)
        bare = checkout(work / "bare", wheels=(), name="lockstep-bench/python")
        invoke(bare, "build")
        found = [one_round(home, bare, work / str(number)) for number in range(rounds)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"`build` with nothing to do, whole process: {nothing:.2f} s")
    print(told("cold build", found, "cold", "their cold"))
    print(told("one small package more", found, "small", "their small"))
    print(f"peak memory of the largest process of a build: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
