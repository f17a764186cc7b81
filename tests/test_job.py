"""The Job: one value for every runner."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockstep.errors import JobError, SettingsError
from lockstep.runs.job import Job, check_source, make_job
from lockstep.settings import JobSettings


def test_a_job_is_made_from_the_settings_and_extra_arguments_come_last() -> None:
    """What follows `--` on the command line wins, as argparse takes the last word."""
    settings = JobSettings(arguments=("--epochs", 2), environment_variables={"B": "2", "A": "1"})
    job = make_job(settings, "data/digits", extra=("--epochs", "3"))
    assert job.arguments == ("--epochs", 2, "--epochs", "3")
    assert job.environment_variables == (("A", "1"), ("B", "2"))
    assert job.command == ("train.py", "--data", "{data}", "--epochs", "2", "--epochs", "3")


def test_arguments_keep_their_types_and_are_never_split() -> None:
    """Azure ML gets numbers as numbers; a space or a quote in an argument stays in it."""
    job = Job(arguments=("--lr", 0.001, "--name", 'it\'s a "test" $HOME'), inputs=(("data", "d"),))
    assert job.arguments_with({"data": "/in"}) == (
        *("--data", "/in", "--lr", 0.001, "--name", 'it\'s a "test" $HOME'),
    )


def test_equal_jobs_have_equal_hashes_and_any_change_shows() -> None:
    """The hash is how a submitted run finds the local run of the same Job."""
    job = Job(arguments=("--epochs", 2))
    assert job.hash == Job(arguments=("--epochs", 2)).hash
    others = [Job(), Job(arguments=("--epochs", 3)), Job(arguments=("--epochs", 2), processes=2)]
    assert len({job.hash, *(other.hash for other in others)}) == 4


def test_several_processes_get_one_thread_each_unless_told() -> None:
    """With and without torchrun the same number of threads, or the bits would differ."""
    assert Job(processes=2).variables == {"OMP_NUM_THREADS": "1"}
    assert Job(nodes=2).variables == {"OMP_NUM_THREADS": "1"}
    assert Job(environment_variables=(("OMP_NUM_THREADS", "3"),), processes=2).variables == {
        "OMP_NUM_THREADS": "3"
    }
    assert Job().variables == {}


def test_the_number_of_threads_of_another_run_is_passed_on() -> None:
    """What a local run measured, the submitted one gets; what the person said stays."""
    assert Job().with_threads(2).variables == {"OMP_NUM_THREADS": "2"}
    told = Job(environment_variables=(("OMP_NUM_THREADS", "3"),))
    assert told.with_threads(2) is told


@pytest.mark.parametrize("script", ["", "/etc/passwd", "../train.py"])
def test_a_script_outside_the_source_is_refused(script: str) -> None:
    """Only what travels can run."""
    with pytest.raises(SettingsError, match=r"job\.script"):
        Job(script=script)


def test_a_missing_script_names_those_there_are(tmp_path: Path) -> None:
    """A typing error is seen at once."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").touch()
    assert check_source(Job(), tmp_path) == tmp_path / "src"
    with pytest.raises(JobError, match=r"trian\.py.*train\.py"):
        check_source(Job(script="trian.py"), tmp_path)
    with pytest.raises(JobError, match="isn't a folder"):
        check_source(Job(source="nowhere"), tmp_path)
