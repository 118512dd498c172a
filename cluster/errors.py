"""Errors of the cluster's commands; its backends raise the engine's own (engine/errors.py).

ClusterError
└── PlanError    a plan was asked for in numbers that make no sense
"""

from __future__ import annotations


class ClusterError(Exception):
    """Root of what this folder raises on purpose; the message names the bad value."""

    exit_code = 1


class PlanError(ClusterError):
    """The numbers to plan with make no sense together."""

    exit_code = 2
