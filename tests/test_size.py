"""Sizes: one reading for settings, Jobs and the docker arguments of an SDK's job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lockstep.errors import SettingsError
from lockstep.runs.job import Job
from lockstep.settings import read_settings
from lockstep.size import parse_size
from lockstep.workspace.docker_arguments import bytes_of, read_docker_arguments
from lockstep.workspace.fault import Fault
from lockstep.workspace.launch import check_definition

RIGHT = [
    ("2g", 2 << 30),
    ("512m", 512 << 20),
    ("1.5g", 3 << 29),
    ("1.5G", 3 << 29),
    ("64MiB", 64 << 20),
    ("64 mb", 64 << 20),
    ("7", 7),
    ("7b", 7),
    ("1p", 1 << 50),
    ("9007199254740993", 9007199254740993),
]
WRONG = [
    "",
    "two",
    "-1g",
    "0",
    "0.1b",
    "2 gallons",
    "1.g",
    "1,5g",
    "1e3",
    "٢g",
    "g",
    "8193p",
    "9" * 50,
    "9223372036854775808",
]


@pytest.mark.parametrize(("text", "size"), RIGHT)
def test_every_reader_reads_a_size_alike(text: str, size: int, tmp_path: Path) -> None:
    """Docker's units of 1024, fractions too."""
    settings = read_settings(tmp_path, {"job": {"shm_size": text}})
    assert Job(shm_size=settings.job.shm_size).shm_bytes == size
    assert (parse_size(text), bytes_of(text)) == (size, size)
    assert read_docker_arguments(["--shm-size", text]).shm_size == size
    assert read_docker_arguments([f"--shm-size={text}"]).shm_size == size


@pytest.mark.parametrize("text", WRONG)
def test_every_reader_refuses_what_is_no_size(text: str, tmp_path: Path) -> None:
    """The settings name the key, the workspace answers 400."""
    refused: list[tuple[Any, Any]] = [
        (SettingsError, lambda: parse_size(text)),
        (SettingsError, lambda: Job(shm_size=text)),
        (SettingsError, lambda: read_settings(tmp_path, {}, {"INVOKE_JOB_SHM_SIZE": text})),
        (Fault, lambda: bytes_of(text)),
    ]
    for error, read in refused:
        with pytest.raises(error, match="isn't a size"):
            read()
    if text:  # an empty one isn't sent
        with pytest.raises(Fault, match="isn't a size"):
            check_definition({"script": "t.py", "docker": {"shmSize": text}})
    with pytest.raises(Fault, match="isn't a size"):
        check_definition({"script": "t.py", "docker": {"arguments": [f"--shm-size={text}"]}})
    with pytest.raises(SettingsError, match=r"job\.shm_size: .* isn't a size\. Write it like"):
        read_settings(tmp_path, {"job": {"shm_size": text}})
