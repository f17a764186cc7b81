"""Runs in a job's container for `submit --check-azure`: tells what the job is given. Standard library only."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time

WATCHED = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "AZUREML_RUN_ID",
    "PROBE",
)


def main() -> None:
    """Write outputs/probe-<rank>.json; with `--sleep SECONDS`, wait."""
    words = sys.argv[1:]
    data = pathlib.Path(words[words.index("--data") + 1]) if "--data" in words else None
    shm = os.statvfs("/dev/shm")  # noqa: S108 - it is what is asked about
    facts = {
        "python": sys.executable,
        "version": sys.version.split()[0],
        "user": [os.getuid(), os.getgid()],
        "home": os.environ.get("HOME", ""),
        "home_is_writable": os.access(os.environ.get("HOME", "/"), os.W_OK),
        "work_is_writable": os.access(".", os.W_OK),
        "shm_bytes": shm.f_frsize * shm.f_blocks,
        "arguments": words,
        "data": sorted(path.name for path in data.rglob("*")) if data else [],
        "variables": {name: os.environ[name] for name in WATCHED if name in os.environ},
    }
    print("probe", json.dumps(facts), flush=True)
    outputs = pathlib.Path("outputs")
    outputs.mkdir(exist_ok=True)
    (outputs / f"probe-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(facts))
    if "--sleep" in words:
        time.sleep(float(words[words.index("--sleep") + 1]))


if __name__ == "__main__":
    main()
