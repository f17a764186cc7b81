"""The SDK's discovery file, `~/.azureml/.discovery`: addresses of services, kept in a file that all may read.

The discovery address of the embedded workspace holds a secret, and those of Azure name what is private.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def keep_discovery_private() -> None:
    """Let only this user read the file, now and after the SDK has written it: it keeps an existing file's mode."""
    folder = Path("~").expanduser() / ".azureml"
    with contextlib.suppress(OSError):  # no home folder to write in: the SDK keeps nothing there either
        folder.mkdir(mode=0o700, exist_ok=True)
        file = os.open(folder / ".discovery", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
