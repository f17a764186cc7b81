"""Spec: what a person wrote, read from a conda file, a requirements file or an export, and normalised."""

from lockstep.spec.spec import (
    PipOptions,
    Spec,
    read_spec,
)

__all__ = [
    "PipOptions",
    "Spec",
    "read_spec",
]
