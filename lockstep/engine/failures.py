"""What the docker SDK raises, in words: its exceptions end here.

requests.ConnectionError, …      the engine went away           -> EngineError
APIError "no space left"         the engine's disk is full      -> DiskFullError
ImageNotFound                    the engine lacks an image      -> EngineError
APIError, DockerException        the engine refused             -> EngineError with its own words
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lockstep.errors import DiskFullError, EngineError, LockstepError

START_IT = (
    "See its log (`journalctl -u docker`, or the file named when it was started), start it, "
    "then run this again."
)


@contextlib.contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turn what the SDK raises while `doing` (such as "starting the container") into a LockstepError."""
    import docker.errors
    import requests
    import urllib3.exceptions

    try:
        yield
    except docker.errors.DockerException as error:
        raise in_words(str(getattr(error, "explanation", None) or error), doing) from error
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        ConnectionError,
        BrokenPipeError,
    ) as error:
        raise went_away(doing) from error


def went_away(doing: str) -> EngineError:
    """Return the error for an engine that stopped answering."""
    return EngineError(f"The container engine went away while {doing}.", START_IT)


def in_words(explanation: str, doing: str) -> LockstepError:
    """Return the error for an engine's own `explanation` of why it refused."""
    lowered = explanation.lower()
    if "no space left" in lowered or "disk quota exceeded" in lowered:
        return DiskFullError(
            f"The engine's disk is full ({doing}): {explanation}",
            "Free some space (`./invoke clean`, `docker system df`), then run this again.",
        )
    if "no such image" in lowered or "image not known" in lowered:
        return EngineError(
            f"The engine hasn't got the image ({doing}): {explanation}", "Run `./invoke build`."
        )
    if "connection refused" in lowered or "connection aborted" in lowered:
        return went_away(doing)
    return EngineError(
        f"The engine refused, while {doing}: {explanation}",
        "Change what it names, then run this again; `./invoke doctor` shows which engine it is.",
    )
