"""Namespace: the `__init__.py` that several distributions ship alike, spelled differently.

Before PEP 420 each distribution of a namespace brought a file that only declares the namespace ("Packaging
namespace packages": pkgutil-style and pkg_resources-style). azure-, google- and zope-packages still do, with other
blank lines, comments or docstrings; pip lets the last one win.
"""

from __future__ import annotations

import ast

LONGEST = 4096
"""Bytes of a file that is looked at: a declaration is short, and what is short can't nest deep."""

_CALLS = {"pkgutil": "extend_path", "pkg_resources": "declare_namespace"}
"""The function of each module that declares a namespace."""

_CAUGHT = {"ImportError", "ModuleNotFoundError", "Exception"}


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
        return all(name.name in _CALLS and name.asname is None for name in statement.names)
    if isinstance(statement, ast.ImportFrom):
        function = _CALLS.get(statement.module or "")
        return all(name.name == function and name.asname is None for name in statement.names)
    if isinstance(statement, ast.Try):
        inner = [*statement.body, *(each for handler in statement.handlers for each in handler.body)]
        plain = all(map(_is_plain, statement.handlers)) and not statement.orelse and not statement.finalbody
        return plain and all(map(_declares, inner))
    return _calls(statement)


def _is_plain(handler: ast.ExceptHandler) -> bool:
    """Tell whether what a handler catches is only a name: an expression there is code that runs."""
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return all(isinstance(each, ast.Name) and each.id in _CAUGHT for each in caught)


def _calls(statement: ast.stmt) -> bool:
    """Tell whether a statement is one of the two declarations itself (or, with `try`, tries one)."""
    if isinstance(statement, ast.Try):
        return any(map(_calls, statement.body))
    if isinstance(statement, ast.Assign):
        names = [ast.unparse(target) for target in statement.targets]
        return names == ["__path__"] and _is_call(statement.value, "pkgutil", "(__path__, __name__)")
    return isinstance(statement, ast.Expr) and _is_call(statement.value, "pkg_resources", "(__name__)")


def _is_call(value: ast.expr, module: str, arguments: str) -> bool:
    spelled = ("", f"{module}.", f"__import__('{module}').")
    return ast.unparse(value) in {f"{prefix}{_CALLS[module]}{arguments}" for prefix in spelled}
