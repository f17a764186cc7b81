"""What an image's name means to a registry: docker's defaults for what it leaves out, and the address."""

from __future__ import annotations

from dataclasses import dataclass

from lockstep.image_name import parse_image_name
from lockstep.servers import is_loopback


@dataclass(frozen=True)
class Reference:
    """A repository in a registry, and a tag or a digest in it (the digest wins)."""

    host: str
    repository: str
    tag: str = "latest"
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def url(self) -> str:
        """The repository's address. Plain HTTP is for loopback alone, unless that turns out to want TLS."""
        from docker.auth import INDEX_NAME

        host = f"registry-1.{INDEX_NAME}" if self.host == INDEX_NAME else self.host
        return f"{'http' if is_loopback(host) else 'https'}://{host}/v2/{self.repository}"


def parse_reference(text: str) -> Reference:
    """Return what a name means, with docker's own rule for names without a registry or a tag.

    Raises SettingsError if it can't be an image's name.
    """
    from docker.auth import INDEX_NAME

    name = parse_image_name(text)
    host = name.host or INDEX_NAME
    official = host == INDEX_NAME and "/" not in name.repository
    repository = f"library/{name.repository}" if official else name.repository
    return Reference(host, repository, name.tag or "latest", name.digest)
