"""Report: what people read when work is done. Each function prints one view of one value."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.terminal import megabytes, print_document, print_table

if TYPE_CHECKING:
    from lockstep.cleaning import Cleaned
    from lockstep.doctor import Check
    from lockstep.engine import EngineInfo
    from lockstep.image import Image
    from lockstep.inspection import Inspection
    from lockstep.lock import Change
    from lockstep.pipeline import Built, Locked
    from lockstep.runs.compare import Difference
    from lockstep.runs.run import RunRecord

_SHOWN_CHANGES = 40


def print_json(value: Any) -> None:
    """Print a value for scripts: one JSON document on standard output. NaN and infinities become null."""
    print_document(json.dumps(_finite(value), indent=2, sort_keys=True, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """Return a value without the numbers that JSON (RFC 8259, section 6) has no words for."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    if all(change.before is None for change in changes):
        return  # a first lock: everything is new, and says nothing
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
        print(
            "The Dockerfile adds to the base image: this image depends on the day it was built, not on the lock alone."
        )
    new, image = built.delivery.layers_new, built.image
    print(f"image      {reference}")
    print(f"image ID   {image.id}")
    print(f"lock hash  {built.lock.hash}")
    print(
        f"size       {megabytes(image.size)} in {len(image.layers)} layers, {new} of them new to the engine"
    )
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
    print(
        f"\nAgainst the build before, {before.id[7:19]}: {len(layers)} layers differ, {megabytes(added)} new."
    )
    for each in compare_packages(before, image):
        print(f"  {each.name} {each.before or '(not there)'} -> {each.after or '(gone)'}")


def _named(packages: Sequence[str]) -> str:
    if len(packages) <= 8:
        return ", ".join(packages)
    return f"{', '.join(packages[:8])} and {len(packages) - 8} more"


def print_run(record: RunRecord, runs: Path) -> None:
    """Print how a run ended and what it left in its folder below `runs`, as seen from here."""
    folder = Path(os.path.relpath(runs / record.id))
    print(f"run        {record.id}: {record.status}" + (f" ({record.reason})" if record.reason else ""))
    print(f"image ID   {record.image_id}")
    if weights := record.weights:
        print(f"weights    {folder / 'outputs' / 'model.pt'}, sha256 {weights.sha256}")
    if record.metrics:
        print(
            "metrics    " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(record.metrics.items()))
        )
    print(f"record     {folder / 'run.json'}")


def print_runs(records: Sequence[RunRecord], *, json: bool) -> None:
    """Print the runs, newest first."""
    if json:
        print_json([record.as_json() for record in reversed(records)])
        return
    if not records:
        print("No runs yet. `./invoke train-local` makes one.")
        return
    rows = (
        (
            record.id,
            record.kind,
            record.status,
            _seconds(record),
            _short(record.image_id),
            " ".join(record.command),
        )
        for record in reversed(records)
    )
    print_table(("run", "where", "status", "s", "image", "command"), rows)


def print_comparison(differences: Sequence[Difference], *, json: bool) -> None:
    """Print what two runs have in common, fact by fact, and the conclusion."""
    from lockstep.runs.compare import are_the_same, conclusion

    told = tuple(differences)
    if json:
        facts = [
            {"fact": each.fact, "verdict": each.verdict, "first": each.first, "second": each.second}
            for each in told
        ]
        print_json({"same": are_the_same(told), "facts": facts})
        return
    rows = (
        (each.fact, each.verdict, _short(each.first), "" if each.verdict == "same" else _short(each.second))
        for each in told
    )
    print_table(("fact", "verdict", "first", "second"), rows)
    print(conclusion(told))


def print_engine(info: EngineInfo, *, json: bool) -> None:
    """Print which engine is used."""
    if json:
        print_json(asdict(info))
        return
    for name, value in asdict(info).items():
        shown = megabytes(value) if name == "data_free" and value is not None else value
        print(f"{name.replace('_', ' '):15} {shown}")


def print_checks(checks: Sequence[Check], *, json: bool) -> None:
    """Print what the doctor found."""
    if json:
        print_json([asdict(check) for check in checks])
        return
    for check in checks:
        print(f"{'ok ' if check.ok else 'NO '} {check.name:14} {check.found}")


def print_inspection(found: Inspection, *, json: bool) -> None:
    """Print what reading the store found."""
    if json:
        print_json(asdict(found))
        return
    for line in found.damaged:
        print(f"NO  {line} It is put aside; the next build makes or fetches it again.")
    wrong = f"{len(found.damaged)} of them damaged" if found.damaged else "all as they were"
    print(f"{'NO ' if found.damaged else 'ok '} {found.checked} things, {megabytes(found.size)}: {wrong}")


def print_cleaned(cleaned: Cleaned, *, dry_run: bool, json: bool) -> None:
    """Print what went, or would go."""
    if json:
        parts = [{"what": name, "size": size} for name, size in cleaned.parts]
        print_json({"dry_run": dry_run, "freed": parts})
        return
    for name, size in cleaned.parts:
        print(f"{'would free' if dry_run else 'freed'} {megabytes(size):>10}  {name}")


def _seconds(record: RunRecord) -> str:
    if not record.started or not record.ended:
        return ""
    began, ended = (
        datetime.fromisoformat(each.replace("Z", "+00:00")) for each in (record.started, record.ended)
    )
    return f"{(ended - began).total_seconds():.0f}"


def _short(value: str | None) -> str:
    """Return a value as a table shows it: hashes by their first twelve digits."""
    if value is None:
        return "(unknown)"
    return re.sub(r"(?:sha256:)?\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", value)
