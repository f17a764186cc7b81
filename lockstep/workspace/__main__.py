"""`python -m lockstep.workspace FOLDER`: the workspace alone, without the pipeline that builds conda specs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lockstep.errors import LockstepError
from lockstep.workspace.server import Parts, find_engine, serve


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m lockstep.workspace", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--studio-port", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=4, help="nodes of the compute target cpu-cluster")
    parser.add_argument("--mlflow-python", type=Path, help="a Python that has MLflow")
    told = parser.parse_args()
    parts = Parts(find_engine, mlflow_python=told.mlflow_python, nodes=told.nodes)
    try:
        serve(told.folder, parts, port=told.port, studio_port=told.studio_port)
    except LockstepError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
