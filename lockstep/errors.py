"""What can go wrong, by what a caller can do about it.

LockstepError              anything a user can cause or mend: words and a remedy, exit code 2
├── SettingsError          mend invoke.yaml, a flag or an environment variable
├── SpecError              mend the conda file, the requirements or the Dockerfile
├── SolveError             no set of packages satisfies the spec: relax it
├── LockError              the lock is stale, edited or unreadable: lock again
├── FetchError             a server didn't answer: try again, the next run continues
├── IntegrityError         bytes aren't what the lock says: find out why before going on
│   └── DamagedError       something in the store isn't what was put there: it is put aside, go again
├── PackageError           a package can't go into the image: it escapes, collides or needs a script
├── EngineError            no container engine, or it went away
├── RegistryError          a registry refused or failed
│   └── UnreachableError   no registry answered at all: a base image can be made without one
├── JobError               the training can't start: script, data or image is missing
├── WorkspaceError         the workspace refused or can't be reached
└── DiskFullError          free some space
"""

from __future__ import annotations

from pathlib import Path

from lockstep.redaction import redact


class LockstepError(Exception):
    """An expected failure: what was expected, what was found, and the remedy.

    `remedy` is the command or the change that fixes it; `str()` ends with it. Neither shows a credential.
    """

    exit_code = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = redact(message)
        self.remedy = redact(remedy)
        super().__init__(self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class SettingsError(LockstepError):
    """A setting is missing, unknown or of the wrong type."""


class SpecError(LockstepError):
    """The spec (conda file, requirements, Dockerfile) can't be read or says something impossible."""


class SolveError(LockstepError):
    """No set of packages satisfies the spec."""


class LockError(LockstepError):
    """The lock is stale, was edited by hand or can't be read."""


class FetchError(LockstepError):
    """A server didn't deliver, after retries."""


class IntegrityError(LockstepError):
    """Bytes differ from the sha256 that the lock holds."""


class DamagedError(IntegrityError):
    """Something in the store isn't what was put there. It is put aside by now; `path` is where it was."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(
            message,
            "Run the same command again: it makes or fetches it again. If that doesn't last, the disk or the "
            "memory may be failing: set LOCKSTEP_HOME to a folder on another disk.",
        )
        self.path = path


class PackageError(LockstepError):
    """A package can't be laid into the image."""


class EngineError(LockstepError):
    """No container engine answers, or it failed."""


class RegistryError(LockstepError):
    """An OCI registry refused a request or failed."""


class UnreachableError(RegistryError):
    """No connection to a registry came about."""


class JobError(LockstepError):
    """A Job can't start: its script, its data or its image is missing."""


class WorkspaceError(LockstepError):
    """The workspace refused a request or can't be reached."""


class DiskFullError(LockstepError):
    """A disk has no room for what is to be written."""
