"""Namespace: the `__init__.py` that several distributions ship alike, spelled differently.

Before PEP 420 each distribution of a namespace brought a file that only declares the namespace ("Packaging
namespace packages": pkgutil-style and pkg_resources-style). azure-, google- and zope-packages still do, with other
blank lines, comments or docstrings; pip lets the last one win.
"""

from __future__ import annotations

import ast

LONGEST = 4096
"""Bytes of a file that is looked at: a declaration is short, and what is short can't nest deep."""

_MODULES = {"pkgutil", "pkg_resources"}
_CALLS = {"extend_path", "declare_namespace"}


def is_one_module(first: bytes, second: bytes) -> bool:
    """Tell whether two sources do the same: equal code, or both declare a namespace and do nothing else.

    >>> is_one_module(b"import a  # x", b"import a")
    True
    >>> is_one_module(b"import a", b"import b")
    False
    """
    trees = [_parsed(source) for source in (first, second)]
    one, two = trees
    if one is None or two is None:
        return False
    return ast.dump(one) == ast.dump(two) or (_is_declaration(one) and _is_declaration(two))


def _parsed(source: bytes) -> ast.Module | None:
    if len(source) > LONGEST:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_declaration(tree: ast.Module) -> bool:
    """Tell whether a module only declares a namespace."""
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    return bool(body) and all(map(_declares, body)) and any(map(_calls, body))


def _declares(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import):
        return all(name.name in _MODULES and name.asname is None for name in statement.names)
    if isinstance(statement, ast.ImportFrom):
        return statement.module in _MODULES and all(
            name.name in _CALLS and name.asname is None for name in statement.names
        )
    if isinstance(statement, ast.Try):
        inner = [*statement.body, *(each for handler in statement.handlers for each in handler.body)]
        return not statement.orelse and not statement.finalbody and all(map(_declares, inner))
    return _calls(statement)


def _calls(statement: ast.stmt) -> bool:
    """Tell whether a statement is one of the two declarations itself (or, with `try`, tries one)."""
    if isinstance(statement, ast.Try):
        return any(map(_calls, statement.body))
    if isinstance(statement, ast.Assign):
        names = [ast.unparse(target) for target in statement.targets]
        return names == ["__path__"] and _is_call(statement.value, "extend_path", "(__path__, __name__)")
    return isinstance(statement, ast.Expr) and _is_call(statement.value, "declare_namespace", "(__name__)")


def _is_call(value: ast.expr, function: str, arguments: str) -> bool:
    written = ast.unparse(value)
    modules = [f"{module}." for module in _MODULES] + [f"__import__('{module}')." for module in _MODULES]
    return written in {f"{module}{function}{arguments}" for module in ("", *modules)}
