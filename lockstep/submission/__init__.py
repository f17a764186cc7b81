"""Submission: the story of `submit`, from the Job to the line that says what was the same."""

from lockstep.submission.submission import (
    Plan,
    Submission,
    plan,
    register,
    submit,
    submit_job,
)

__all__ = [
    "Plan",
    "Submission",
    "plan",
    "register",
    "submit",
    "submit_job",
]
