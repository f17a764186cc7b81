r"""Layers: a cold `assemble` of a lock against the floor, as ratios, and its peak memory.

    .venv/bin/python -m bench.layers environments/pytorch-env.conda-lock.yml        (2 cores: some minutes)

The floor inflates, hashes and writes the lock's wheels in a bare loop of two processes with the standard
library. `assemble` makes the layers of the same wheels and compiles their bytecode; the layers of the conda
packages are made before. Both write to the store's disk; packages are fetched before. Each round does one
of each, one after the other; run it on a machine that does nothing else, or read the ratios only. CPU is
user + system time.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

from lockstep.fetch import fetch
from lockstep.home import Home
from lockstep.layers import assemble as layers
from lockstep.lock import Lock, read_lock

CHUNK = 1 << 18
ASSEMBLE = """
import sys
from pathlib import Path
from lockstep.layers.assemble import assemble
from lockstep.home import Home
from lockstep.lock import read_lock
lock, packages, home = read_lock(Path(sys.argv[1])), Home(Path(sys.argv[2])), Home(Path(sys.argv[3]))
assemble(lock, {x.sha256: packages.package(x.sha256) for x in lock.packages}, home)
"""


def inflate(paths: tuple[Path, Path]) -> None:
    """Inflate one wheel, hash what comes out, and write it."""
    source, target = paths
    found = hashlib.sha256()
    with zipfile.ZipFile(source) as archive, target.open("wb") as file:
        for item in archive.infolist():
            with archive.open(item) as stream:
                while chunk := stream.read(CHUNK):
                    found.update(chunk)
                    file.write(chunk)


def floor(lock: Lock, home: Home, folder: Path) -> None:
    """Do the least that has to be done with the lock's wheels, in two processes."""
    wheels = sorted((x for x in lock.packages if x.manager == "pip"), key=lambda x: -x.size)
    pairs = [(home.package(x.sha256), folder / x.sha256) for x in wheels]
    with multiprocessing.Pool(2) as pool:
        pool.map(inflate, pairs, chunksize=1)
        pool.close()
        pool.join()


def cpu() -> float:
    """Return the CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, shared pages counted once for each sharer."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    own = next((int(x.split()[1]) * 1024 for x in rollup if x.startswith("Pss:")), 0)
    return own + sum(memory(int(x)) for x in children)


def assemble_conda(lock: Lock, home: Home, folder: Path) -> None:
    """Make the layers of the conda packages, which the floor leaves out."""
    packages = {x.sha256: home.package(x.sha256) for x in lock.packages}
    conda = replace(lock, packages=tuple(x for x in lock.packages if x.manager == "conda"))
    layers.assemble(conda, packages, Home(folder))


def assemble(lock: Path, home: Home, folder: Path) -> int:
    """Assemble in a process of its own, and return its peak memory in bytes."""
    command = [sys.executable, "-c", ASSEMBLE, str(lock), str(home.path), str(folder)]
    running = subprocess.Popen(command)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while running.poll() is None:
            peak = max(peak, memory(running.pid))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if running.wait():
        sys.exit("assemble failed")
    watcher.join()
    return peak


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lock", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    lock, home = read_lock(wanted.lock), Home.default()
    fetch(lock.packages, home, bootstrap=lock.bootstrap)
    walls: dict[str, list[float]] = {"floor": [], "assemble": []}
    cpus: dict[str, list[float]] = {"floor": [], "assemble": []}
    peaks = []
    for _ in range(wanted.rounds):
        for way in walls:
            folder = home.path / f"bench-{os.getpid()}"
            folder.mkdir()
            if way == "assemble":
                assemble_conda(lock, home, folder)
            before, began = cpu(), time.perf_counter()
            if way == "floor":
                floor(lock, home, folder)
            else:
                peaks.append(assemble(wanted.lock, home, folder))
            walls[way].append(time.perf_counter() - began)
            cpus[way].append(cpu() - before)
            shutil.rmtree(folder)
    print(f"{'':8}  {'wall s':>7}  {'range':>14}  {'ratio':>5}  {'CPU s':>6}  {'ratio':>5}")
    for way, found in walls.items():
        wall, used = statistics.median(found), statistics.median(cpus[way])
        spread = f"{min(found):.1f} to {max(found):.1f}"
        ratio, cpu_ratio = wall / statistics.median(walls["floor"]), used / statistics.median(cpus["floor"])
        print(f"{way:8}  {wall:7.1f}  {spread:>14}  {ratio:5.2f}  {used:6.1f}  {cpu_ratio:5.2f}")
    print(f"assemble's peak memory, all processes: {max(peaks) / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
