"""NO_PROXY: this machine is asked directly, whatever proxy there is for the rest."""

from __future__ import annotations

from collections.abc import Mapping

THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
VARIABLES = ("NO_PROXY", "no_proxy")
"""Programs read one of the two, most of them the small one first: both must say the same."""


def no_proxy(environment: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """Return NO_PROXY and no_proxy for a program in `environment`: what both say there, this machine, and `hosts`.

    `*`, which means every host, stands alone: most programs know it only so.

    >>> no_proxy({"no_proxy": ".corp.example"}, "172.17.0.1")["NO_PROXY"]
    '.corp.example,127.0.0.1,localhost,::1,172.17.0.1'
    """
    entries = list(dict.fromkeys((*exceptions(environment), *THIS_MACHINE, *hosts)))
    return dict.fromkeys(VARIABLES, "*" if "*" in entries else ",".join(entries))


def exceptions(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the entries that either variable has."""
    said = ",".join(environment.get(name, "") for name in VARIABLES).replace(" ", ",").split(",")
    return tuple(dict.fromkeys(filter(None, said)))
