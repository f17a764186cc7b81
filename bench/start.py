"""Start: command to first batch, `./invoke train-local` against `docker run` by hand, in pairs.

    ./invoke data --digits && ./invoke build && .venv/bin/python -m bench.start

Both run the same script in the same image on the handwritten digits.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "lockstep/pytorch-env:latest"
PAIRS = 5


def seconds(command: list[str]) -> float:
    """Return the seconds from the start of a command to its line about the first batch."""
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("first batch"):
                break
        else:
            sys.exit(f"no first batch from {' '.join(command)}")
        took = time.monotonic() - began
        process.stdout.read()
    return took


def main() -> None:
    """Take the pairs and print the difference."""
    data = ROOT / "data" / "digits"
    os.environ["INVOKE_JOB_DATA"] = "digits"
    by_hand = ["docker", "run", "--rm", "--network", "none", "--shm-size", "2g", "-e", "PYTHONUNBUFFERED=1"]
    by_hand += [
        "-v",
        f"{ROOT / 'src'}:/src:ro",
        "-v",
        f"{data}:/data:ro",
        "--tmpfs",
        "/work",
        "-w",
        "/work",
        IMAGE,
    ]
    by_hand += ["python", "/src/train.py", "--data", "/data", "--epochs", "1"]
    ours = [sys.executable, "-m", "invoke", "train-local", "--", "--epochs", "1"]
    seconds(by_hand)
    pairs = [(seconds(ours), seconds(by_hand)) for _ in range(PAIRS)]
    more = [one - other for one, other in pairs]
    print(f"train-local to first batch: {statistics.median(x for x, _ in pairs):.2f} s")
    print(f"docker run by hand: {statistics.median(x for _, x in pairs):.2f} s")
    print(f"difference, pair by pair: {statistics.median(more):.2f} s ({min(more):.2f} to {max(more):.2f})")


if __name__ == "__main__":
    main()
