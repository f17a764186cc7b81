"""Download: what a run left, to this disk. The service's names are a job's names: none leads out of the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lockstep.azureml.failures import azureml_errors
from lockstep.azureml.follow import patiently
from lockstep.copies import Allowance, LeftOut, copy_bytes, partial_file
from lockstep.home import disk_full_in_words
from lockstep.root import Root, UnsafeNameError

ORIGIN = "ExperimentRun"


def fetch(
    run: Any, names: tuple[str, ...], folder: Path, prefix: str, say: Callable[[str], None]
) -> tuple[Path, ...]:
    """Fetch the run's files called `names` into `folder`, without `prefix`; return where they are.

    What can't be put there (a name that leads out, no room) is left out, and `say` gets a line for each.
    """
    import requests

    root, left_out, fetched = Root(folder), LeftOut(), []
    folder.mkdir(parents=True, exist_ok=True)
    allowance = Allowance.on(folder)
    with requests.Session() as session, disk_full_in_words(folder):
        for name in names:
            target = name.removeprefix(prefix)
            with partial_file(folder) as partial:
                reason = patiently(lambda: _fetch(session, run, name, partial, allowance))  # noqa: B023 - called at once
                if not reason:
                    reason = _placed(root, partial, target)
            if reason:
                left_out.add(name, reason)
            else:
                fetched.append(folder / target)
    for line in left_out.lines("the download"):
        say(line)
    return tuple(fetched)


def _fetch(session: Any, run: Any, name: str, partial: Path, allowance: Allowance) -> str:
    """Write a file's bytes to `partial`; or return why not. The address that the service gives is the permission."""
    import requests
    import urllib3

    with azureml_errors(f"downloading {name} of {run.id}"):
        address = run._client.artifacts.get_artifact_uri(ORIGIN, run._container, name)
        headers = {"Accept-Encoding": "identity"}  # so that the length is the file's
        with session.get(address, headers=headers, stream=True, timeout=60) as answer:
            answer.raise_for_status()
            stated = answer.headers.get("Content-Length", "")
            size = int(stated) if stated.isdigit() else allowance.most + 1  # a proxy may send it in chunks
            if stated and (reason := allowance.refusal(size)):
                return reason
            try:
                with partial.open("wb") as file:
                    found = copy_bytes(answer.raw, file, size)
                if stated and found < size:
                    raise requests.ConnectionError(f"{name} ended too early")
            except BaseException as error:
                if stated:
                    allowance.refund(size)
                if isinstance(
                    error, urllib3.exceptions.HTTPError
                ):  # requests wraps them only where it decodes
                    raise requests.ConnectionError(str(error)) from error
                raise
    return "" if stated else allowance.refusal(found)


def _placed(root: Root, partial: Path, name: str) -> str:
    """Move a fetched file to its place; or return why not."""
    try:
        root.put(partial, name)
    except UnsafeNameError:
        return "its name leads out of the folder"
    except (NotADirectoryError, IsADirectoryError):
        return "there is a folder where it would be a file, a file where its folder would be, or a link"
    return ""
