"""How long it took until what a fault had interrupted went on.

coordinator, distributor   its acting process was killed, stopped or parted from the server: until another process holds
                           the lease, or until it does again itself; seen within 40 ms
worker                     it was killed or stopped: until the last of the tasks it was executing is executed elsewhere,
                           or goes on; none when it was executing nothing
server                     it was killed or stopped: from the moment it answers again until a client hears of the next
                           end of a task

A recovery in which another fault of the same agent, or of the server, came between is not counted: how long it took
would tell when the last of them was, and not how long the system needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from core.chaos.injector import SERVER, Kind
from core.chaos.ledger import Entry
from core.chaos.run_record import InjectedFault, Recovery

__all__ = ["server_recoveries", "worker_recoveries"]


def worker_recoveries(injected: Iterable[InjectedFault], entries: Sequence[Entry], origin_ns: int) -> list[Recovery]:
    """Of the workers among `injected`, as the ledger shows them. `origin_ns`: the run's beginning, on its clock."""
    began: dict[str, list[Entry]] = defaultdict(list)  # by task
    by_pid: dict[int, list[Entry]] = defaultdict(list)
    ended: dict[str, int] = {}  # by execution
    for entry in entries:
        if entry.kind == "began":
            began[entry.task_id].append(entry)
            by_pid[entry.pid].append(entry)
        elif entry.kind == "ended":
            ended[entry.facts["execution"]] = entry.at_ns
    injected, found = list(injected), []
    server_s = [hit.at_s for hit in injected if hit.fault.target == SERVER]
    for hit in injected:
        if hit.fault.kind not in (Kind.KILL, Kind.STOP) or not hit.fault.target.agent_id.startswith("worker"):
            continue
        at_ns = origin_ns + int(hit.at_s * 1e9)
        resumed = [
            _resumed_ns(began[entry.task_id], entry, ended, at_ns)
            for entry in by_pid[hit.pid]
            if entry.at_ns <= at_ns < ended.get(entry.facts["execution"], at_ns + 1)
        ]
        took_s = (max((time for time in resumed if time is not None), default=0) - at_ns) / 1e9
        if took_s > 0 and not any(hit.at_s <= at_s <= hit.at_s + took_s for at_s in server_s):
            found.append(Recovery(hit.fault, "worker", took_s))
    return found


def _resumed_ns(executions: Iterable[Entry], of: Entry, ended: dict[str, int], at_ns: int) -> int | None:
    """When the task of an execution that was interrupted was next seen in execution; None: it never was."""
    elsewhere = [execution.at_ns for execution in executions if execution.at_ns > at_ns]
    itself = ended.get(of.facts["execution"])
    return min([*elsewhere, *([itself] if itself is not None else [])], default=None)


def server_recoveries(injected: Iterable[InjectedFault], done_s: Sequence[float]) -> list[Recovery]:
    """Of the faults of the server among `injected`; `done_s`: when the client heard of each end, in order."""
    found = []
    for hit in injected:
        if hit.fault.kind in (Kind.SERVER_KILL, Kind.SERVER_STOP) and hit.healed_s is not None:
            first_s = next((at_s for at_s in done_s if at_s > hit.healed_s), None)
            if first_s is not None:
                found.append(Recovery(hit.fault, "server", first_s - hit.healed_s))
    return found
