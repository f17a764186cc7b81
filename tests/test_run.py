"""The run record: there from start to end, and two of them compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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
