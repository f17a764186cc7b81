"""Solve: a Spec becomes a Lock. conda packages with rattler, wheels with uv, nothing installed."""

from lockstep.solve.solve import solve

__all__ = ["solve"]
