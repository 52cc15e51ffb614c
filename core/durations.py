"""What takes how long in the life of a hierarchy, as far as a step knows it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Duration"]


class Duration(StrEnum):
    """A duration that a step measures. Its value is the name of the metric, without its unit."""

    DISTRIBUTION = "distribution"  #: from when a task could be handed out until it was, at one tier
    FAILURE_DETECTION = "failure_detection"  #: from a child's last sign of life until it counts as gone
    TAKEOVER = "takeover"  #: from a distributor's last sign of life until its tasks are queued again
    RECONCILIATION = "reconciliation"  #: from the question which tasks a child has until what it has lost is known
