"""Which two spellings of an `__init__.py` are one module."""

from __future__ import annotations

import pytest

from lockstep.layers.namespace import is_one_module

PKGUTIL = b"__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
IMPORTED = b"'''One.'''\nfrom pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
EITHER = b"""try:
    import pkg_resources
    pkg_resources.declare_namespace(__name__)
except ImportError:
    import pkgutil
    __path__ = pkgutil.extend_path(__path__, __name__)
"""


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (PKGUTIL, b"\n" + PKGUTIL),
        (PKGUTIL, IMPORTED),
        (IMPORTED, EITHER),
        (EITHER, b'__import__("pkg_resources").declare_namespace(__name__)'),
        (b"x = 1", b"x  =  1  # one"),
        (b"", b"# nothing"),
    ],
)
def test_one_module_spelled_twice(one: bytes, two: bytes) -> None:
    """Comments, blanks, quotes, and the styles of namespace declarations, with a docstring or without."""
    assert is_one_module(one, two)
    assert is_one_module(two, one)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (PKGUTIL, PKGUTIL + b"import os\n"),
        (PKGUTIL, IMPORTED + b"VERSION = 1\n"),
        (PKGUTIL, b"__path__ = __import__('pkgutil').extend_path(__path__, __import__('os').environ)\n"),
        (PKGUTIL, b"__path__ = __import__('os').extend_path(__path__, __name__)\n"),
        (PKGUTIL, b"paths = __import__('pkgutil').extend_path(__path__, __name__)\n"),
        (PKGUTIL, b"import pkgutil as os\n__path__ = pkgutil.extend_path(__path__, __name__)\n"),
        (PKGUTIL, b"import pkgutil\n"),
        (PKGUTIL, b"'''Only words.'''\n"),
        (PKGUTIL, EITHER + b"else:\n    import os\n"),
        (PKGUTIL, EITHER.replace(b"ImportError", b"exec('x = 1')")),
        (PKGUTIL, EITHER.replace(b"ImportError", b"(ImportError, exec('x = 1'))")),
        (PKGUTIL, EITHER.replace(b"ImportError", b"other.Error")),
        (PKGUTIL, b"import pkg_resources\n__path__ = pkg_resources.extend_path(__path__, __name__)\n"),
        (PKGUTIL, b"from pkgutil import declare_namespace\ndeclare_namespace(__name__)\n"),
        (b"x = 1", b"x = 2"),
        (b"'''One.'''", b"'''Two.'''"),
        (b"x = (", b"x = ( "),
        (b"x = \0", b"x =  \0"),
        (b"-" * 5000 + b"1", b"-" * 5000 + b"1 "),
        (b"(" * 3000, b"(" * 3000 + b" "),
    ],
)
def test_modules_that_differ(one: bytes, two: bytes) -> None:
    """Other code, other words, what can't be parsed and what nests too deep."""
    assert not is_one_module(one, two)
    assert not is_one_module(two, one)
