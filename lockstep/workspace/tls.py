"""TLS: a certificate authority made on first use, and the bundle that makes clients trust it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.servers import certificates

if TYPE_CHECKING:
    import trustme

NAMES = ("localhost", "127.0.0.1", "host.docker.internal")


class Authority:
    """The workspace's own certificate authority, kept in `folder`.

    Writes `ca.pem`, its key, and `ca-bundle.pem`: the authority with everything that this machine trusts already,
    because a client that is pointed at a bundle trusts nothing else.
    """

    def __init__(self, folder: Path) -> None:
        import trustme

        certificate, key = folder / "ca.pem", folder / "ca.key"
        if certificate.exists() and key.exists():
            self._ca = trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
        else:
            self._ca = trustme.CA(organization_name="Lockstep embedded workspace")
            _write(key, self._ca.private_key_pem.bytes())
            _write(certificate, self._ca.cert_pem.bytes())
        trusted = _trusted_already(folder)
        _write(folder / "trusted.pem", trusted)
        _write(folder / "ca-bundle.pem", trusted + b"\n" + certificate.read_bytes(), mode=0o644)

    def context(self) -> ssl.SSLContext:
        """Return a context to serve with, under the names of this machine's loopback."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.certify(context, ())
        return context

    def certify(self, context: ssl.SSLContext, addresses: tuple[str, ...]) -> None:
        """Give `context` a certificate that is good for `addresses` too; connections from now on get it."""
        certificate: trustme.LeafCert = self._ca.issue_cert(*NAMES, *addresses)
        certificate.configure_cert(context)


def _trusted_already(folder: Path) -> bytes:
    """Return the authorities that this machine's clients trust without us, company ones included.

    Our own files, which a shell may have in its variables, don't count: what was trusted before is kept in `folder`.
    """
    named = certificates.bundles(())
    others = [path for path in named if Path(path).resolve().parent != folder.resolve()]
    before = folder / "trusted.pem"
    if len(others) < len(named) and before.is_file():
        others.append(str(before))
    return certificates.joined(others or [certificates.of_this_system()])


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    partial.replace(path)
