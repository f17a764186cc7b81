"""Grouping: which packages share a layer, and layers merged from many."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from lockstep.image.layer import Entry, LayerWriter
from lockstep.layers.grouping import BIG, MAX_LAYERS, Places, group, merge
from lockstep.lock.locked import LockedPackage


def package(name: str, size: int, made_for: str = "py3-none-any") -> LockedPackage:
    """Return a package of a size."""
    return LockedPackage(name, "1", "pip", f"https://wheels.test/{name}-1-{made_for}.whl", "0" * 64, size)


def names(*packages: LockedPackage) -> list[list[str]]:
    """Return the names in each layer."""
    return [[x.name for x in layer] for layer in group(packages)]


def test_big_ones_are_alone_and_small_ones_together() -> None:
    """Big packages come big to small; the small ones share the last layer, by name."""
    packages = [package("s2", 5), package("b1", BIG), package("s1", BIG - 1), package("b2", BIG + 1)]
    assert names(*packages) == [["b2"], ["b1"], ["s1", "s2"]]


def test_native_libraries_are_below_all_from_small_to_big() -> None:
    """What has nothing to compile is ready first, and the engine can begin with the smallest."""
    libraries = [package(f"n{x}", BIG + x, "py3-none-manylinux_2_27_x86_64") for x in (2, 1, 3)]
    torch = package("torch", 9 * BIG, "cp311-cp311-manylinux_2_28_x86_64")
    assert names(torch, *libraries, package("sympy", BIG)) == [["n1"], ["n2"], ["n3"], ["torch"], ["sympy"]]


def test_order_of_the_lock_does_not_matter() -> None:
    """The same packages in another order give the same layers."""
    packages = [package(str(x), x % 3 * BIG) for x in range(9)]
    assert names(*packages) == names(*reversed(packages))


def test_a_small_package_more_changes_one_layer() -> None:
    """Everything below the shared layer stays as it is."""
    packages = [package("big", BIG), package("small", 1)]
    assert names(*packages, package("new", 2))[:-1] == names(*packages)[:-1]


def test_there_are_never_too_many_layers() -> None:
    """Beyond the limit the smallest of the big ones join the small ones."""
    packages = [package(f"p{x:03}", BIG + x) for x in range(MAX_LAYERS + 5)]
    layers = names(*packages, package("s", 1))
    assert len(layers) == MAX_LAYERS
    assert layers[-1] == ["p000", "p001", "p002", "p003", "p004", "p005", "s"]


def test_nothing_gives_no_layer() -> None:
    """An empty lock has no layers at all."""
    assert names() == []


def written(path: Path, *files: tuple[str, bytes]) -> tuple[Path, Places]:
    """Write a layer of some files."""
    with path.open("wb") as file:
        writer = LayerWriter(file, "A package")
        for name, data in files:
            writer.add(Entry(name, len(data)), (data,))
        writer.close()
    return path, writer.places


def test_merged_layers_are_sorted_and_hold_each_path_once(tmp_path: Path) -> None:
    """A shared layer looks like any other: sorted, each folder and each file once, content whole."""
    long = "d/" + "x" * 150
    one = written(tmp_path / "1", ("a/x", b"1" * 700), ("b", b""), (long, b"pax"))
    two = written(tmp_path / "2", ("a-b/y", b"3"), ("a/w", b"2"), ("a/x", b"1" * 700))
    out = io.BytesIO()
    diff_id, size, places = merge([one, two], out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert archive.getnames() == ["a", "a-b", "a-b/y", "a/w", "a/x", "b", "d", long] == list(places)
        held = [archive.extractfile(x) for x in ("a-b/y", "a/w", "a/x", "b", long)]
        assert [x.read() for x in held if x] == [b"3", b"2", b"1" * 700, b"", b"pax"]
    assert size == len(out.getvalue())
    assert diff_id == f"sha256:{hashlib.sha256(out.getvalue()).hexdigest()}"
