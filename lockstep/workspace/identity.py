"""Identity: who this workspace is, its secrets, and the tokens it gives and checks."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import jwt

SUBSCRIPTION = "00000000-0000-4000-8000-000000000001"
RESOURCE_GROUP = "lockstep"
NAME = "embedded"
CLOUD = "Lockstep"
"""The name of our cloud. `AzureCloud` would send SDK v2 to the public one, whatever the metadata's address says."""
ARM_PATH = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{NAME}"
)
AUDIENCE = "https://management.core.windows.net/"
DISCOVERY, DISCOVERY_OF_JOBS = "discovery", "discovery of jobs"
DAY = 86_400


@dataclass(frozen=True)
class Identity:
    """The workspace's id and keys, made at random once and kept in a file only the owner can read.

    The id is new after every reset, because the SDK remembers for ever which snapshots it sent to an id.
    """

    workspace: str
    tenant: str
    key: str

    @classmethod
    def of(cls, path: Path) -> Identity:
        """Read the identity kept at `path`; make it where there is none."""
        if path.exists():
            return cls(**json.loads(path.read_text()))
        made = cls(str(uuid.uuid4()), str(uuid.uuid4()), secrets.token_hex(32))
        partial = path.with_suffix(".partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(made), file)
        partial.replace(path)
        return made

    def secret(self, purpose: str) -> str:
        """Return the secret for one purpose (`sign-in`, `discovery`, `studio`, …); one never gives away another."""
        return hmac.new(self.key.encode(), f"secret {purpose}".encode(), hashlib.sha256).hexdigest()[:40]

    def token(self, seconds: int = DAY, run: str = "") -> str:
        """Return a bearer token: a JWT with `exp`, as the SDK expects to decode.

        One of a `run` has only that run's rights (rights.py), and only until the run's end.
        """
        claims = {
            "exp": int(time.time()) + seconds,
            "iat": int(time.time()),
            "tid": self.tenant,
            "oid": self.workspace,
            "run": run,
        }
        return jwt.encode({**claims, "aud": AUDIENCE, "name": "local"}, self.key, "HS256")

    def holder(self, authorization: str) -> str | None:
        """Return whose token an Authorization header holds: a run's id, "" for the workspace's owner.

        None where it holds none of ours, or one that has expired.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            claims = jwt.decode(
                token, self.key, ["HS256"], options={"verify_aud": False, "require": ["exp", "run"]}
            )
        except jwt.InvalidTokenError:
            return None
        return str(claims["run"])

    def sign(self, resource: str, run: str = "") -> str:
        """Return the signature that lets whoever holds the URL read or write one resource, as a SAS does."""
        whose = json.dumps([resource, run])
        return hmac.new(self.key.encode(), f"resource {whose}".encode(), hashlib.sha256).hexdigest()

    def signed(self, resource: str, run: str = "") -> str:
        """Return the query of a signed URL of `resource` (a path below the host).

        One for a `run` names it as `si`, which Azure calls a stored access policy: it ends when the run ends.
        """
        policy = f"&si={quote(run, safe='')}" if run else ""
        return f"sv=2019-02-02&sr=b{policy}&sig={quote(self.sign(resource, run))}"

    def admits(self, resource: str, signature: str, run: str = "") -> bool:
        """Tell whether `signature` is the one for `resource` (and `run`), in constant time."""
        return hmac.compare_digest(self.sign(resource, run).encode(), signature.encode())

    def same(self, purpose: str, value: str) -> bool:
        """Tell whether `value` is the secret for `purpose`, in constant time."""
        return hmac.compare_digest(self.secret(purpose).encode(), value.encode())
