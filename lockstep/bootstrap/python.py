"""Debian's Python as CPython's own: site-packages instead of dist-packages, and no path of /usr.

Debian patches the standard library so that pip and dpkg don't write into the same folder. In a prefix of
its own that would send packages to <prefix>/local/lib/python3/dist-packages. What is patched here is
found by function name, and a Python that isn't as expected is an error, never half patched.

`site` is frozen into the program since 3.11, so its names of folders are changed there too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from lockstep.errors import PackageError

_SITE = '''\
def getsitepackages(prefixes=None):
    """Return the site-packages folders of the prefixes, as CPython does."""
    sitepackages = []
    for prefix in dict.fromkeys(prefixes or PREFIXES):
        if prefix:
            sitepackages.append(os.path.join(prefix, sys.platlibdir,
                                             "python%d.%d" % sys.version_info[:2], "site-packages"))
    return sitepackages
'''

_SCHEMES = """\
def _get_preferred_schemes():
    return {"prefix": "posix_prefix", "home": "posix_home", "user": "posix_user"}
"""

_ENSUREPIP = '''\
def _ensurepip_is_disabled_in_debian_for_system():
    """This Python isn't the system's."""
'''


_CERTIFICATES = '''
def _load_certificates_of_prefix(context):
    """Trust the prefix's ssl/cert.pem where the operating system has no certificates."""
    system = get_default_verify_paths()
    own = os.path.join(sys.base_prefix, "ssl", "cert.pem")
    if not system.cafile and not (system.capath and os.listdir(system.capath)) and os.path.exists(own):
        context.load_verify_locations(own)
'''


def is_debian_only(path: str) -> bool:
    """Say whether a file of the standard library (`lib/python3.11/…`) is there only for Debian's sake."""
    return path.rsplit("/", 1)[-1] in ("EXTERNALLY-MANAGED", "_distutils_system_mod.py", "sitecustomize.py")


def as_upstream(path: str, data: bytes) -> bytes:
    """Return a file of the standard library as CPython has it, as far as folders go.

    `path` is relative to the prefix. Raises PackageError if a file to be patched isn't as expected.
    """
    inside = "/".join(path.split("/")[2:])
    if inside.startswith("_sysconfigdata"):
        return _relocatable_build_variables(data.decode()).encode()
    patch = _PATCHES.get(inside)
    if patch is None:
        return data
    try:
        return patch(data.decode()).encode()
    except ValueError as error:
        raise _unexpected(path, str(error)) from error


def _unexpected(what: str, why: str) -> PackageError:
    return PackageError(
        f"Debian's {what} isn't as expected: {why}.",
        "This release's Python can't be repackaged by this version of Lockstep. Make a conda channel "
        "reachable (channel_mirrors in invoke.yaml, .condarc).",
    )


def with_site_packages(program: bytes) -> bytes:
    """Return the program python3.x with Debian's folders changed in the module `site` that is frozen in it.

    The texts are constants of the module's code, frozen as objects in 3.11 and 3.12 and marshalled since
    3.13: `dist-packages` is as long as `site-packages`, and `local/lib` becomes `lib` with its length, or a
    name of that folder that is as long. Raises PackageError if they are there in another form.
    """
    for before, after in ((b"\0", b"\0"), (b"z\r", b"")):  # a text that ends in zero; type, length, text
        folder, place = before + b"dist-packages" + after, before.replace(b"\r", b"\t") + b"local/lib" + after
        if program.count(folder) == program.count(place) == 1:
            program = program.replace(folder, folder.replace(b"dist", b"site"))
            at = program.index(place) + len(before)
            return _shortened(program, at) or program.replace(place, place.replace(b"local/", b"./././"))
    if b"dist-packages" in program:
        raise _unexpected("program", "the folders in its module site are written in another way")
    return program


def _shortened(program: bytes, at: int) -> bytes | None:
    """Return a program with the object of the text `local/lib`, which is at `at`, changed to `lib`."""
    for start in (at - 32, at - 24):  # PyASCIIObject: length, hash, state and, up to 3.11, wstr
        if program[start : start + 16] == (9).to_bytes(8, "little") + b"\xff" * 8:
            length = (3).to_bytes(8, "little")
            return b"".join(
                [program[:start], length, program[start + 8 : at], b"lib" + b"\0" * 6, program[at + 9 :]]
            )
    return None


def _site(text: str) -> str:
    return _with_function(text, "getsitepackages", _SITE)


def _sysconfig(text: str) -> str:
    text = _with_function(text, "_get_preferred_schemes", _SCHEMES)
    return (
        text
        + '\nfor _name in ("deb_system", "posix_local"):\n    _INSTALL_SCHEMES.pop(_name, None)\ndel _name\n'
    )


def _ensurepip(text: str) -> str:
    return _with_function(text, "_ensurepip_is_disabled_in_debian_for_system", _ENSUREPIP)


def _ssl(text: str) -> str:
    old = "        self.set_default_verify_paths()\n"
    return _once(text, old, f"{old}        _load_certificates_of_prefix(self)\n") + _CERTIFICATES


def _distutils_sysconfig(text: str) -> str:
    return _once(text, "elif is_default_prefix and not is_virtual_environment():", "elif False:")


def _distutils_install(text: str) -> str:
    text = _once(text, 'self.select_scheme("unix_local")', 'self.select_scheme("unix_prefix")')
    return (
        text
        + '\nfor _name in ("deb_system", "unix_local"):\n    INSTALL_SCHEMES.pop(_name, None)\ndel _name\n'
    )


_PATCHES: dict[str, Callable[[str], str]] = {
    "site.py": _site,
    "sysconfig.py": _sysconfig,
    "sysconfig/__init__.py": _sysconfig,  # a package since 3.13
    "ensurepip/__init__.py": _ensurepip,
    "ssl.py": _ssl,
    "distutils/sysconfig.py": _distutils_sysconfig,
    "distutils/command/install.py": _distutils_install,
}


def _with_function(text: str, name: str, body: str) -> str:
    """Return a module's text with one top-level function replaced."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            lines = text.splitlines(keepends=True)
            return "".join([*lines[: node.lineno - 1], body, *lines[node.end_lineno :]])
    raise ValueError(f"it has no function {name}")


def _once(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"{old!r} is in it {text.count(old)} times")
    return text.replace(old, new)


_USR = re.compile(r"(?<![\w./-])/usr(?:/lib/x86_64-linux-gnu(?=[/ ']|$)|(?!/bin/)(?=[/ ']|$))")
"""Debian's prefix and its library folder, but not the system's tools (`/usr/bin/install`)."""

_HERE = "\0"
"""Stands for the prefix in a value, until it becomes an expression."""

_OURS = {
    "BINDIR": f"{_HERE}/bin",
    "TZPATH": f"{_HERE}/share/zoneinfo:/usr/share/zoneinfo",
    "WHEEL_PKG_DIR": f"{_HERE}/share/python-wheels",
}


def _relocatable_build_variables(text: str) -> str:
    """Return `_sysconfigdata` with Debian's prefix replaced by wherever this Python is when it runs.

    sysconfig takes the dictionary from the module, so it may well be computed.
    """
    values: dict[str, object] = next(
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "build_time_vars"
    )
    lines = "".join(f"    {key!r}: {_expression(key, value)},\n" for key, value in sorted(values.items()))
    return (
        "# system configuration generated and used by the sysconfig module\n"
        f"import sys\n\n_prefix = sys.base_prefix\nbuild_time_vars = {{\n{lines}}}\n"
    )


def _expression(key: str, value: object) -> str:
    if not isinstance(value, str):
        return repr(value)
    if "/build/" in value:
        return "''"  # folders of Debian's build machine
    value = _OURS.get(key) or _USR.sub(lambda found: _HERE + ("/lib" if "/lib/" in found[0] else ""), value)
    pieces = [piece for piece in re.split(f"({_HERE})", value) if piece]
    return " + ".join("_prefix" if piece == _HERE else repr(piece) for piece in pieces) or "''"
