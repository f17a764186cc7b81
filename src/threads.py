"""How many threads one process's arithmetic gets.

Threads are the trap at small batches: two OpenMP threads that spin while another process has the core
fall from 1,300 to 27 images/s. And a different number of threads may round differently, so the number
is part of what a run was: it is printed, kept in metrics.json, and OMP_NUM_THREADS repeats it.
"""

from __future__ import annotations

import copy
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

SMALL = 32  # images per process and step, below which one thread is as good as any
SECONDS = 0.15  # that each count is tried for
GAIN = 1.05  # that the next count must bring to be worth its threads


def let_idle_threads_sleep() -> None:
    """Make waiting OpenMP threads sleep rather than spin. OpenMP reads this once, when torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def usable_cpus() -> int:
    """Return how many processors this process may keep busy: its affinity, and its container's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the affinity alone
    return cpus


def choose_threads(
    wanted: str, net: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, processes: int
) -> int:
    """Return the number to use: `wanted`, else OMP_NUM_THREADS, else what a rule or a measurement says.

    Small batches and GPUs get one thread, always, so that the same run gives the same bits on machines
    with different core counts. Several processes on one machine share its processors evenly. What is
    left, one process with a batch worth dividing, is measured: `net` is copied, and no random number is
    drawn, so nothing of the training changes.
    """
    if wanted == "auto":
        wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0] or "auto"
    if wanted != "auto":
        return int(wanted)
    if len(labels) < SMALL or pixels.is_cuda:
        return 1
    if processes > 1:
        return max(1, usable_cpus() // processes)
    return _measure(net, pixels, labels)


def _measure(net: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> int:
    """Return the smallest count after which doubling no longer pays."""
    import torch

    net = copy.deepcopy(net)
    best, rate = 1, 0.0
    count = 1
    while count <= usable_cpus():
        torch.set_num_threads(count)
        now = _steps_per_second(net, pixels, labels)
        if now < rate * GAIN:
            break
        best, rate = count, now
        count *= 2
    return best


def _steps_per_second(net: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the rate of forward and backward passes; the fastest step, as others may hold the cores."""
    from torch.nn import functional

    fastest = float("inf")
    end = time.perf_counter() + SECONDS
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        functional.cross_entropy(net(pixels), labels).backward()
        if rounds:  # the first one also makes threads and memory
            fastest = min(fastest, time.perf_counter() - start)
        rounds += 1
    return 1 / fastest
