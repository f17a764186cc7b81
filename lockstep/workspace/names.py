"""Names: what each kind of name may look like. Checked at the door, before anything is looked up or written.

A route's parameter is called after its kind (`{run}`, `{experiment}`), so the door checks every name in a path;
names in bodies are checked where the body's shape is (shapes.py). The rules are Azure's where it states one or its
SDK checks one, and else what the SDK and MLflow send.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lockstep.workspace.fault import Fault

SHOWN = 80
CONTROL = "\x00-\x1f\x7f-\x9f\u2028\u2029"
"""Characters that act instead of being seen: they have no place in a name."""
UUID = "-".join(f"[0-9a-fA-F]{{{count}}}" for count in (8, 4, 4, 4, 12))


@dataclass(frozen=True)
class Kind:
    """What a kind of name is called, what it must match whole, and the same said to a person."""

    what: str
    pattern: str
    rule: str


KINDS: Mapping[str, Kind] = {
    "subscription": Kind("a subscription's id", r"[0-9a-zA-Z-]{1,64}", "letters, digits and dashes"),
    "group": Kind("a resource group's name", r"[\w.()-]{1,90}", "1 to 90 letters, digits and . _ - ( )"),
    "workspace": Kind("a workspace's name", r"[a-zA-Z0-9][\w-]{0,32}", "1 to 33 letters, digits, _ and -"),
    "tenant": Kind("a tenant's id", r"[\w.-]{1,128}", "1 to 128 letters, digits and . _ -"),
    "secret": Kind("the secret part of an address", r"[\w-]{1,128}", "1 to 128 letters, digits, _ and -"),
    "experiment": Kind(  # azureml._base_sdk_common.common._valid_experiment_name
        "an experiment's name",
        r"[a-zA-Z0-9][\w-]{0,254}",
        "1 to 255 letters, digits, _ and -, a letter or digit first",
    ),
    "experiment_id": Kind("an experiment's id", r"[0-9]{1,18}", "a number"),
    "run": Kind(  # with `dcid.` before it, it is a folder's name
        "a run's id",
        r"[a-zA-Z0-9][\w.-]{0,249}",
        "1 to 250 letters, digits and . _ -, a letter or digit first",
    ),
    "environment": Kind(
        "an environment's name",
        r"[a-zA-Z0-9][\w .()-]{0,254}",
        "1 to 255 letters, digits, spaces and . _ - ( ), a letter or digit first",
    ),
    "version": Kind("a version", r"[\w][\w.:+-]{0,254}", "1 to 255 letters, digits and . _ - + :"),
    "label": Kind("a label", r"[\w][\w.:+-]{0,254}", "1 to 255 letters, digits and . _ - + :"),
    "compute": Kind(
        "a compute target's name", r"[a-zA-Z][\w-]{0,31}", "1 to 32 letters, digits, _ and -, a letter first"
    ),
    "datastore": Kind("a datastore's name", r"\w{1,255}", "1 to 255 letters, digits and _"),
    "reference": Kind("a data reference's name", r"\w{1,255}", "1 to 255 letters, digits and _"),
    "snapshot": Kind("a snapshot's id", UUID, "a UUID"),
    "asset": Kind("an asset's id", r"[\w-]{1,64}", "1 to 64 letters, digits, _ and -"),
    "model_name": Kind(
        "a model's name",
        r"[a-zA-Z0-9][\w.-]{0,254}",
        "1 to 255 letters, digits and . _ -, a letter or digit first",
    ),
    "model": Kind("a model's id", r"[a-zA-Z0-9][\w.-]{0,254}(:[0-9]{1,18})?", "like `name:1`"),
    "origin": Kind("an artifact's origin", r"[a-zA-Z][\w-]{0,63}", "1 to 64 letters, digits, _ and -"),
    "container": Kind(
        "an artifact container's name", r"[a-zA-Z0-9][\w.-]{0,254}", "1 to 255 letters, digits and . _ -"
    ),
    "kind": Kind("a kind of blob", r"snapshots|artifacts", "snapshots or artifacts"),
    "blob": Kind("a blob's id", r"[0-9a-f]{1,16384}", "hexadecimal digits"),
    "path": Kind(
        "a file's path", r"[^\x00]{0,2048}", "at most 2,048 characters, no NUL"
    ),  # jobs make odd names
    "new_path": Kind(
        "a new file's path",
        rf"[^{CONTROL}]{{0,2048}}",
        "at most 2,048 characters, no control characters",
    ),
    "file": Kind(
        "a file's name",
        rf"(?!\.{{1,2}}$)[^/{CONTROL}]{{1,255}}",
        "1 to 255 characters without /, no control characters",
    ),
    "method": Kind(
        "a method of MLflow's interface",
        rf"(?!(.*/)?\.\.?(/|$))[^{CONTROL}]{{1,2048}}",
        "a path without . and ..",
    ),
    "metric": Kind(
        "a metric's name", rf"[^{CONTROL}]{{1,255}}", "1 to 255 characters, no control characters"
    ),
    "tag": Kind(
        "a tag's or property's name",
        rf"[^{CONTROL}]{{1,1024}}",
        "1 to 1,024 characters, no control characters",
    ),
    "variable": Kind(
        "an environment variable's name", rf"[^={CONTROL}]{{1,1024}}", "characters other than ="
    ),
}
_COMPILED = {name: re.compile(kind.pattern, re.ASCII | re.DOTALL) for name, kind in KINDS.items()}


def checked(kind: str, name: str) -> str:
    """Return `name` if it may be one of its kind (a key of KINDS); refuse it with 400, with the rule.

    >>> checked("run", "exp_1700000000_0a1b2c3d")
    'exp_1700000000_0a1b2c3d'
    """
    if not _COMPILED[kind].fullmatch(name):
        rule = KINDS[kind]
        shown = ascii(name[:SHOWN]) + ("…" if len(name) > SHOWN else "")
        raise Fault(400, f"{shown} can't be {rule.what}, which is {rule.rule}.", "InvalidName")
    return name


def check_path(parameters: Mapping[str, str], *, makes: bool = False) -> None:
    """Check every parameter of a route's path; each is called after its kind. `makes`: the file in it is a new one."""
    for kind, name in parameters.items():
        checked("new_path" if makes and kind == "path" else kind, name)
