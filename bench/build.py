"""Build against `docker build`: ratios taken side by side, on one machine, in one run.

    ./invoke build && .venv/bin/python -m bench.build

`docker build` gets what it can best use: the same wheels from this disk over loopback, no index, no cache
of its own. Its base is an image of the same Python without the wheels. The images of this project are
removed from the engine and made again; the store and the downloads stay. Takes about fifteen minutes.
"""

from __future__ import annotations

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

from lockstep.home import Home
from lockstep.lock import Lock, read_lock

ROOT = Path(__file__).resolve().parents[1]
BASE = "lockstep-bench/python:latest"
THEIRS = "lockstep-bench/docker-build:latest"


def invoke(root: Path, *words: str, home: Path | None = None) -> tuple[float, dict[str, object]]:
    """Run a task of a checkout; return its seconds, as a whole process, and what it told."""
    environment = {**os.environ, **({"LOCKSTEP_HOME": str(home)} if home else {})}
    command = [sys.executable, "-m", "invoke", "--search-root", str(root), *words, "--json"]
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


def main() -> None:
    """Take every measurement and print the table."""
    home = Home.default()
    pins = ("torch==2.14.1", "torchvision==0.29.1")
    lock_path = ROOT / "environments" / "pytorch-env.conda-lock.yml"
    with tempfile.TemporaryDirectory(dir=home.path) as temporary:
        work = Path(temporary)
        (work / "wheels").mkdir()
        (work / "context").mkdir()
        wheels_of(read_lock(lock_path), home, work / "wheels")

        nothing = statistics.median(invoke(ROOT, "build")[0] for _ in range(5))

        bare = checkout(work / "bare", wheels=(), name="lockstep-bench/python")
        invoke(bare, "build")

        cold_home = work / "cold"
        cold_home.mkdir()
        for part in ("packages", "bootstrap"):
            subprocess.run(["cp", "-al", str(home.path / part), str(cold_home / part)], check=True)
        remove_images()
        ours = checkout(work / "ours", wheels=pins, name="lockstep/pytorch-env", lock=lock_path)
        shutil.copy(ROOT / "environments" / "pytorch-env.yml", ours / "environments" / "pytorch-env.yml")
        cold, told = invoke(ours, "build", home=cold_home)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024

        more = (*pins, "humanize==4.13.0")
        changed = checkout(work / "changed", wheels=more, name="lockstep/pytorch-env", lock=lock_path)
        small, _ = invoke(changed, "build", home=cold_home)
        wheels_of(
            read_lock(changed / "environments" / "pytorch-env.conda-lock.yml"),
            Home(cold_home),
            work / "wheels",
        )

        remove_images()
        invoke(bare, "build")
        with served(work / "wheels") as url:
            theirs_cold = docker_build(work / "context", url, pins)
            theirs_small = docker_build(work / "context", url, more)
        remove_images()

    print(f"`build` with nothing to do, whole process: {nothing:.2f} s")
    print(
        f"cold build: {cold:.0f} s; docker build: {theirs_cold:.0f} s; {theirs_cold / cold:.1f} times faster"
    )
    print(f"  of which: {told['seconds']}")
    print(
        f"one small package more: {small:.1f} s; docker build: {theirs_small:.0f} s; {theirs_small / small:.0f} times"
    )
    print(f"peak memory of the largest process of a build: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
