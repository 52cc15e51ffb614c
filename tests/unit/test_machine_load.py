"""How busy a machine says it is."""

from __future__ import annotations

import sys

from core.machine.machine_load import machine_load
from core.status_reports import beat_in


def test_what_a_machine_says_of_its_load_is_accepted_in_a_heartbeat() -> None:
    cpu_percent, memory_percent = machine_load()

    beat = beat_in({"cpu_percent": cpu_percent, "memory_percent": memory_percent})

    assert (beat.cpu_percent, beat.memory_percent) == (cpu_percent, memory_percent)
    assert memory_percent > 0 or sys.platform != "linux"
