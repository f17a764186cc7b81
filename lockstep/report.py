"""Report: what people read when work is done. Each function prints one view of one value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lockstep.terminal import console, megabytes, table

if TYPE_CHECKING:
    from lockstep.image import Image
    from lockstep.lock import Change
    from lockstep.pipeline import Built, Locked

_SHOWN_CHANGES = 40


def print_json(value: Any) -> None:
    """Print a value for scripts: one JSON document on standard output."""
    print(json.dumps(value, indent=2, sort_keys=True, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table on standard output."""
    console().print(table(headings, rows))


def lock_as_json(made: Locked, path: str) -> dict[str, Any]:
    """Return a lock's facts and changes for `--json`."""
    return {
        "path": path,
        "hash": made.lock.hash,
        "spec_hash": made.lock.spec_hash,
        "base": made.lock.base.digest,
        "packages": len(made.lock.packages),
        "changes": [str(change) for change in made.changes],
    }


def print_lock(made: Locked, path: str) -> None:
    """Print what a lock holds and what changed."""
    print_changes(made.changes)
    total = sum(package.size for package in made.lock.packages)
    state = "locked" if made.changes else "up to date"
    print(f"{path} is {state}: {len(made.lock.packages)} packages, {megabytes(total)} to fetch at most.")
    print(f"lock hash  {made.lock.hash}")


def print_changes(changes: Sequence[Change]) -> None:
    """Print a lock's changes, a line each, and how many more there are when there are many."""
    for change in changes[:_SHOWN_CHANGES]:
        print(change)
    if len(changes) > _SHOWN_CHANGES:
        print(f"… and {len(changes) - _SHOWN_CHANGES} more")


def build_as_json(built: Built) -> dict[str, Any]:
    """Return a build's facts for `--json`."""
    return {
        "image_id": built.image.id,
        "engine_id": built.delivery.image_id,
        "lock_hash": built.lock.hash,
        "size": built.image.size,
        "layers": len(built.image.layers),
        "layers_new_in_engine": built.delivery.layers_new,
        "delivered_by": built.delivery.road,
        "depends_on_day": built.depends_on_day,
        "seconds": dict(built.stages),
        "changes": [str(change) for change in built.changes],
    }


def print_build(built: Built, reference: str) -> None:
    """Print the closing summary of a build: ID, size, what was reused, where the time went."""
    print_changes(built.changes)
    if built.depends_on_day:
        print("The Dockerfile adds to the base image: this image depends on the day it was built, not on the lock alone.")
    new, image = built.delivery.layers_new, built.image
    print(f"image      {reference}")
    print(f"image ID   {image.id}")
    print(f"lock hash  {built.lock.hash}")
    print(f"size       {megabytes(image.size)} in {len(image.layers)} layers, {new} of them new to the engine")
    spent = [(name, seconds) for name, seconds in built.stages if seconds >= 0.05]
    total = sum(seconds for _, seconds in built.stages)
    print(f"time       {total:.1f} s" + "".join(f", {name} {seconds:.1f} s" for name, seconds in spent))


def image_as_json(image: Image, before: Image | None) -> dict[str, Any]:
    """Return an image's layers and what changed against the one before."""
    from lockstep.image import compare_layers, compare_packages

    told: dict[str, Any] = {
        "image_id": image.id,
        "size": image.size,
        "labels": image.labels,
        "layers": [
            {"diff_id": layer.diff_id, "size": layer.size, "packages": list(layer.packages)}
            for layer in image.layers
        ],
    }
    if before is not None:
        told["before"] = before.id
        told["changed_layers"] = [
            {"change": each.change, "diff_id": each.layer.diff_id, "size": each.layer.size}
            for each in compare_layers(before, image)
        ]
        told["changed_packages"] = [
            {"name": each.name, "before": each.before, "after": each.after}
            for each in compare_packages(before, image)
        ]
    return told


def print_image(image: Image, before: Image | None) -> None:
    """Print what is in an image, layer by layer, and what changed against the build before."""
    from lockstep.image import compare_layers, compare_packages

    print(f"image ID   {image.id}")
    print(f"size       {megabytes(image.size)} in {len(image.layers)} layers")
    print_table(
        ("layer", "size", "packages"),
        (
            (layer.diff_id[7:19], megabytes(layer.size), _named(layer.packages) or "base image")
            for layer in image.layers
        ),
    )
    if before is None:
        return
    layers = compare_layers(before, image)
    added = sum(each.layer.size for each in layers if each.change == "added")
    print(f"\nAgainst the build before, {before.id[7:19]}: {len(layers)} layers differ, {megabytes(added)} new.")
    for each in compare_packages(before, image):
        print(f"  {each.name} {each.before or '(not there)'} -> {each.after or '(gone)'}")


def _named(packages: Sequence[str]) -> str:
    if len(packages) <= 8:
        return ", ".join(packages)
    return f"{', '.join(packages[:8])} and {len(packages) - 8} more"
