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
ARM_PATH = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{NAME}"
)
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
        """Return the secret for one purpose (`sign-in`, `discovery`, `studio`); one never gives away another."""
        return hmac.new(self.key.encode(), f"secret {purpose}".encode(), hashlib.sha256).hexdigest()[:40]

    def token(self, seconds: int = DAY) -> str:
        """Return a bearer token: a JWT with `exp`, as the SDK expects to decode."""
        claims = {
            "exp": int(time.time()) + seconds,
            "iat": int(time.time()),
            "tid": self.tenant,
            "oid": self.workspace,
        }
        return jwt.encode(
            {**claims, "aud": "https://management.core.windows.net/", "name": "local"}, self.key, "HS256"
        )

    def accepts(self, authorization: str) -> bool:
        """Tell whether an Authorization header holds a token of ours that hasn't expired."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        try:
            jwt.decode(token, self.key, ["HS256"], options={"verify_aud": False, "require": ["exp"]})
        except jwt.InvalidTokenError:
            return False
        return True

    def sign(self, resource: str) -> str:
        """Return the signature that lets whoever holds the URL read or write one resource, as a SAS does."""
        return hmac.new(self.key.encode(), f"resource {resource}".encode(), hashlib.sha256).hexdigest()

    def signed(self, resource: str) -> str:
        """Return the query of a signed URL of `resource` (a path below the host)."""
        return f"sv=2019-02-02&sr=b&sig={quote(self.sign(resource))}"

    def admits(self, resource: str, signature: str) -> bool:
        """Tell whether `signature` is the one for `resource`, in constant time."""
        return hmac.compare_digest(self.sign(resource).encode(), signature.encode())

    def same(self, purpose: str, value: str) -> bool:
        """Tell whether `value` is the secret for `purpose`, in constant time."""
        return hmac.compare_digest(self.secret(purpose).encode(), value.encode())
