"""Certificates: whom this machine trusts, in one file for the programs that read only one.

A setting that names a bundle adds to the system's authorities, for our own requests and for uv, rattler and a
Dockerfile's steps alike. Programs differ in which variable they read; here every one of them counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
CERTIFICATE_REMEDY = (
    "If its authority is your company's, name the file of its certificate in SSL_CERT_FILE, REQUESTS_CA_BUNDLE "
    "or pip's `cert`; it counts beside the system's authorities."
)
_OF_SYSTEMS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)
_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.+?-----END (?:TRUSTED )?CERTIFICATE-----", re.S
)


def bundles(settings: Iterable[str | None]) -> tuple[str, ...]:
    """Return the files of certificates that the variables name, then those of `settings`, each once."""
    named = [*(os.environ.get(key) for key in VARIABLES), *settings]
    return tuple(dict.fromkeys(path for path in named if path and Path(path).is_file()))


def joined(named: Sequence[str]) -> bytes:
    """Return every certificate of some bundles and of the system, as PEM; nothing where no bundle is named."""
    if not named:
        return b""
    found: dict[bytes, None] = {}
    for path in (*named, of_this_system()):
        found.update(dict.fromkeys(_CERTIFICATE.findall(Path(path).read_bytes())))
    return b"".join(certificate + b"\n" for certificate in found)


def of_this_system() -> str:
    """Return the file of the authorities that the system trusts, certifi's where it has none."""
    for path in _OF_SYSTEMS:
        if Path(path).is_file():
            return path
    import certifi

    return certifi.where()
