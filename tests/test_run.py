"""The run record: there from start to end, and two of them compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lockstep.errors import JobError
from lockstep.runs.compare import are_the_same, compare_runs, conclusion
from lockstep.runs.run import (
    Output,
    RunRecord,
    find_run,
    last_run_of,
    list_runs,
    new_run,
    read_record,
    with_outputs,
    write_record,
)

RECORD = RunRecord(
    id="20261123-000000-aaaaaa",
    kind="local",
    status="completed",
    command=("train.py", "--data", "{data}"),
    job_hash="j1",
    image_id="sha256:1",
    lock_hash="2",
    source_hash="3",
    data={"data": "sha256:4"},
    settings={"seed": 0, "threads": 1},
    outputs={"model.pt": Output("5", 6)},
    metrics={"loss": 1.25},
    exit_code=0,
)


def keep(runs: Path, record: RunRecord) -> None:
    """Write a record where its id says."""
    (runs / record.id).mkdir(parents=True)
    write_record(record, runs / record.id)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """All facts survive the file."""
    write_record(RECORD, tmp_path)
    assert read_record(tmp_path) == RECORD
    assert json.loads((tmp_path / "run.json").read_text())["schema"] == 1


def test_a_record_of_a_newer_lockstep_or_a_broken_one_is_refused_in_words(tmp_path: Path) -> None:
    """`runs` leaves them out instead of failing."""
    keep(tmp_path, RECORD)
    folder = tmp_path / RECORD.id
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"schema": 1', '"schema": 99'))
    with pytest.raises(JobError, match="newer"):
        read_record(folder)
    (folder / "run.json").write_text(text[:100])
    with pytest.raises(JobError, match="can't be read"):
        read_record(folder)
    assert list_runs(tmp_path) == ()


def test_a_fact_of_a_later_version_of_this_schema_is_passed_over(tmp_path: Path) -> None:
    """A field may be added without breaking older checkouts."""
    write_record(RECORD, tmp_path)
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"schema": 1', '"schema": 1, "new": 2'))
    assert read_record(tmp_path) == RECORD


def test_a_run_whose_process_was_killed_shows_as_lost(tmp_path: Path) -> None:
    """While the process lives it is running; after kill -9 nobody holds its folder."""
    code = (
        "import sys, time; from pathlib import Path; from lockstep.runs.run import *\n"
        "with new_run(Path(sys.argv[1])) as (name, folder):\n"
        "    write_record(RunRecord(name, 'local', 'running', ('train.py',)), folder)\n"
        "    print(name, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert find_run(tmp_path, name).status == "running"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert find_run(tmp_path, name).status == "lost"


def test_two_runs_of_the_same_second_have_two_folders(tmp_path: Path) -> None:
    """Ids never collide."""
    with new_run(tmp_path) as (one, _), new_run(tmp_path) as (other, _):
        assert one != other


def test_a_run_is_found_by_a_part_of_its_id(tmp_path: Path) -> None:
    """What fits several, or none, is said."""
    keep(tmp_path, RECORD)
    keep(tmp_path, RECORD.changed(id="20261123-000000-bbbbbb", kind="embedded", remote_id="exp_1_ab"))
    assert find_run(tmp_path, "aaaaaa") == RECORD
    assert find_run(tmp_path, "last").id.endswith("bbbbbb")
    assert find_run(tmp_path, "exp_1_ab").kind == "embedded"
    with pytest.raises(JobError, match="2 runs fit"):
        find_run(tmp_path, "20261123")
    with pytest.raises(JobError, match="There is no run"):
        find_run(tmp_path, "zzz")


def test_the_last_completed_run_of_a_job_is_found(tmp_path: Path) -> None:
    """A failed one or another Job's proves nothing."""
    keep(tmp_path, RECORD)
    keep(tmp_path, RECORD.changed(id="20261124-000000-bbbbbb", status="failed"))
    keep(tmp_path, RECORD.changed(id="20261125-000000-cccccc", job_hash="j2"))
    assert last_run_of(tmp_path, "j1") == RECORD
    assert last_run_of(tmp_path, "j3") is None


def test_outputs_are_hashed_and_the_script_s_own_words_kept(tmp_path: Path) -> None:
    """Curves become their last values, the rest of metrics.json becomes settings."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / "model.pt").write_bytes(b"weights")
    facts = {"seed": 7, "threads": 2, "curves": {"loss": [[1, 2.5], [2, 1.5]]}, "classes": ["a"]}
    (outputs / "metrics.json").write_text(json.dumps(facts))
    record, left_out = with_outputs(RECORD, tmp_path)
    assert (record.seed, record.threads, record.metrics) == (7, 2, {"loss": 1.5})
    assert record.weights is not None
    assert record.weights.size == 7
    assert left_out.count == 0
    (outputs / "metrics.json").write_text('["not", "facts"]')
    assert with_outputs(RECORD, tmp_path)[0].seed is None


def test_equal_runs_are_the_same_and_each_difference_is_named() -> None:
    """Same, different and unknown are three things."""
    assert are_the_same(compare_runs(RECORD, RECORD.changed(id="other", kind="embedded")))
    other = RECORD.changed(outputs={"model.pt": Output("9", 6)}, lock_hash=None)
    differences = compare_runs(RECORD, other)
    assert not are_the_same(differences)
    verdicts = {each.fact: each.verdict for each in differences}
    assert (verdicts["weights"], verdicts["lock"], verdicts["image"]) == ("different", "unknown", "same")
    told = conclusion(differences)
    assert told == "Same: image, source, command, data, seed, threads. Different: weights. Unknown: lock."


@pytest.mark.parametrize("fact", ["image_id", "lock_hash", "source_hash", "data", "command", "settings"])
def test_no_fact_of_the_proof_may_differ(fact: str) -> None:
    """Each one alone breaks "the same"."""
    values = {"data": {"data": "sha256:9"}, "command": ("x.py",), "settings": {"seed": 1, "threads": 1}}
    assert not are_the_same(compare_runs(RECORD, RECORD.changed(**{fact: values.get(fact, "other")})))


FULL = RECORD.changed(
    nodes=1,
    processes=2,
    environment_variables={"A": "1"},
    settings={"seed": 0, "threads": 1, "device": "cpu", "cpu": "x", "torch": "2"},
)
MISSING: list[tuple[str, dict[str, Any]]] = [
    ("image", {"image_id": None}),
    ("image", {"image_id": ""}),
    ("lock", {"lock_hash": None}),
    ("lock", {"lock_hash": ""}),
    ("source", {"source_hash": None}),
    ("source", {"source_hash": ""}),
    ("command", {"command": ()}),
    ("data", {"data": {}}),
    ("data", {"data": {"data": None}}),
    ("data", {"data": {"data": "sha256:4", "more": None}}),
    ("seed", {"settings": {"threads": 1}}),
    ("threads", {"settings": {"seed": 0}}),
    ("weights", {"outputs": {}}),
    ("weights", {"outputs": {"other.pt": Output("5", 6)}}),
    ("weights", {"outputs": {"model.pt": Output("", 0)}}),
    ("processes", {"nodes": None}),
    ("processes", {"processes": None}),
    ("variables", {"environment_variables": None}),
    ("device", {"settings": {"seed": 0, "threads": 1}}),
    ("cpu", {"settings": {"seed": 0, "threads": 1}}),
    ("torch", {"settings": {"seed": 0, "threads": 1}}),
]


@pytest.mark.parametrize(("fact", "without"), MISSING)
def test_a_fact_that_one_or_both_runs_lack_is_unknown_and_never_the_same(
    fact: str, without: dict[str, Any]
) -> None:
    """Nobody knows whether two unknowns are equal."""
    lacking = FULL.changed(**without)
    for one, other in ((FULL, lacking), (lacking, FULL), (lacking, lacking)):
        differences = compare_runs(one, other)
        assert [each.verdict for each in differences if each.fact == fact] == ["unknown"]
        if fact in (
            "processes",
            "variables",
            "device",
            "cpu",
            "torch",
        ):  # they explain, the proof needs them not
            continue
        assert not are_the_same(differences)
        same, _, rest = conclusion(differences).partition(".")
        assert fact not in same.replace(",", "").split()
        assert f"Unknown: {fact}" in rest or f", {fact}" in rest.partition("Unknown:")[2]


def test_the_proof_needs_every_fact_even_where_none_is_different() -> None:
    """A comparison that lacks a fact altogether proves nothing either."""
    differences = compare_runs(FULL, FULL)
    assert are_the_same(differences)
    for left_out in ("image", "lock", "source", "command", "data", "seed", "threads", "weights"):
        assert not are_the_same(tuple(each for each in differences if each.fact != left_out))
    assert not are_the_same(())


@pytest.mark.parametrize(
    ("fact", "one", "other"),
    [
        ("command", {"command": ("t.py", "--name", "a b")}, {"command": ("t.py", "--name", "a", "b")}),
        (
            "variables",
            {"environment_variables": {"A": "1 B=2"}},
            {"environment_variables": {"A": "1", "B": "2"}},
        ),
        ("variables", {"environment_variables": {}}, {"environment_variables": {"A": ""}}),
        ("data", {"data": {"a": "1 b=2"}}, {"data": {"a": "1", "b": "2"}}),
    ],
)
def test_what_differs_never_reads_alike(fact: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Facts of several words keep their borders."""
    found = {each.fact: each.verdict for each in compare_runs(FULL.changed(**one), FULL.changed(**other))}
    assert found[fact] == "different"


def test_no_variables_at_all_are_known_to_be_none() -> None:
    """Empty isn't missing where the run states it."""
    none = FULL.changed(environment_variables={})
    assert {each.fact: each.verdict for each in compare_runs(none, none)}["variables"] == "same"


def test_an_output_that_happens_to_hold_the_weights_is_compared_like_any_other() -> None:
    """A copy of model.pt is a file of its own."""
    copy = RECORD.changed(outputs={**RECORD.outputs, "best.pt": Output("5", 6)})
    other = RECORD.changed(outputs={**RECORD.outputs, "best.pt": Output("7", 6)})
    assert {each.fact: each.verdict for each in compare_runs(copy, other)}["output best.pt"] == "different"


def test_a_file_that_does_not_state_a_fact_leaves_it_unknown(tmp_path: Path) -> None:
    """Reading fills in nothing that could count as equal."""
    write_record(FULL, tmp_path)
    written = json.loads((tmp_path / "run.json").read_text())
    needed = ("schema", "id", "kind", "status", "command")
    (tmp_path / "run.json").write_text(json.dumps({name: written[name] for name in needed}))
    bare = read_record(tmp_path)
    verdicts = {each.fact: each.verdict for each in compare_runs(bare, bare)}
    assert {fact for fact, verdict in verdicts.items() if verdict == "same"} == {"command", "status"}


@pytest.mark.parametrize(("fact", "without"), MISSING[:15])
def test_a_submission_proves_only_what_both_runs_state(
    fact: str, without: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The closing line and --json say the same as the comparison: what both lack isn't equal."""
    from lockstep.azureml import SubmittedRun
    from lockstep.submission.report import print_submission, submission_as_json
    from lockstep.submission.submission import Submission

    lacking = FULL.changed(**without)
    made = Submission(
        lacking,
        SubmittedRun("exp_1_ab", "exp", "page"),
        local=lacking,
        differences=compare_runs(lacking, lacking),
    )
    print_submission(made, tmp_path, json=False)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"against the local run {lacking.id}: ")
    same = line.partition("Same: ")[2].partition(".")[0].split(", ")
    assert fact not in same
    assert fact in line.partition("Unknown: ")[2]
    facts = submission_as_json(made)
    assert (facts["same"], facts["facts"][fact]) == (False, "unknown")
