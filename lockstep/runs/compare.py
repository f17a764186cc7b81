"""Compare: what two runs have in common, fact by fact. It is what "the same" means."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lockstep.runs.run import WEIGHTS, RunRecord

_PROOF = ("image", "lock", "source", "command", "data", "seed", "threads", "weights")


@dataclass(frozen=True)
class Difference:
    """One fact of two runs; None where a run doesn't state it, which is never the same as anything."""

    fact: str
    first: str | None
    second: str | None

    @property
    def verdict(self) -> str:
        """`same`, `different`, or `unknown` where a run doesn't state it, be it one of the two or both."""
        if not self.first or not self.second:
            return "unknown"
        return "same" if self.first == self.second else "different"


def compare_runs(first: RunRecord, second: RunRecord) -> tuple[Difference, ...]:
    """Return every fact with its verdict: first what the proof rests on, then what explains a difference."""
    one, other = dict(_facts(first)), dict(_facts(second))
    names = [*one, *(name for name in other if name not in one)]
    return tuple(Difference(name, one.get(name), other.get(name)) for name in names)


def conclusion(differences: tuple[Difference, ...]) -> str:
    """Return one line, such as `Same: image, lock, source. Different: threads. Unknown: data.`."""
    parts = []
    for verdict in ("same", "different", "unknown"):
        names = [each.fact for each in differences if each.fact in _PROOF and each.verdict == verdict]
        if names:
            parts.append(f"{verdict.capitalize()}: {', '.join(names)}.")
    return " ".join(parts)


def are_the_same(differences: tuple[Difference, ...]) -> bool:
    """Tell whether image, lock, source, command, data, seed, threads and weights are all known and equal."""
    verdicts = {each.fact: each.verdict for each in differences}
    return all(verdicts.get(fact) == "same" for fact in _PROOF)


def _facts(record: RunRecord) -> Iterator[tuple[str, str | None]]:
    yield "image", record.image_id
    yield "lock", record.lock_hash
    yield "source", record.source_hash
    yield "command", shlex.join(record.command) or None
    yield "data", _joined(record.data) if record.data and all(record.data.values()) else None
    yield "seed", _text(record.seed)
    yield "threads", _text(record.threads)
    yield "weights", record.weights.sha256 if record.weights else None
    yield "processes", _text(record.nodes * record.processes if record.nodes and record.processes else None)
    variables = record.environment_variables
    yield "variables", None if variables is None else _joined(variables) or "none"
    for name in ("device", "cpu", "torch"):
        yield name, _text(record.settings.get(name))
    for name, value in sorted(record.metrics.items()):
        yield f"metric {name}", _text(value)
    for path, output in sorted(record.outputs.items()):
        if path != WEIGHTS:
            yield f"output {path}", output.sha256
    yield "status", record.status


def _joined(facts: Mapping[str, str | None]) -> str:
    """Return NAME=VALUE words, quoted: other names and values never give the same text."""
    return shlex.join(f"{name}={value}" for name, value in sorted(facts.items()))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
