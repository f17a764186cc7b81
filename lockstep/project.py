"""Project: what every stage of the pipeline needs to know about where it works."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.home import Home
from lockstep.progress import Progress
from lockstep.settings import Settings, read_settings


@dataclass(frozen=True)
class Project:
    """A checkout's settings, the machine's store, and whom to tell how far long work is.

    `install` says whether system packages may be installed when something is missing.
    """

    settings: Settings
    home: Home
    progress: Progress
    install: bool

    @property
    def state(self) -> Path:
        """The folder of what Lockstep remembers of this checkout: `.lockstep/`."""
        return self.settings.root / ".lockstep"


def open_project(root: Path, config: Mapping[str, Any], *, install: bool) -> Project:
    """Read the project at `root`; `config` is Invoke's configuration. Sweeps what killed runs left."""
    from lockstep import terminal

    settings = read_settings(root, config, os.environ)
    home = Home.default()
    home.sweep()
    return Project(settings, home, terminal.progress(), install)
