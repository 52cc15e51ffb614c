"""Recovery times: how long it took until work that a fault had interrupted continued.

coordinator, distributor   after its acting process was killed, stopped or cut off: until another process, or the same
                           one again, holds the lease; with a precision of 40 ms
worker                     after it was killed or stopped: until the last of the tasks that it was executing is executed
                           elsewhere, or continues; nothing is counted if it was executing none
server                     after it was killed or stopped: from its first answer until a client hears of the next end of
                           a task

A recovery is not counted if another fault of the same agent, or of the server, falls into it: its time would depend on
when that fault was, and not on how long the system needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from core.chaos.injector import SERVER, Kind
from core.chaos.ledger import Entry
from core.chaos.run_record import InjectedFault, Recovery

__all__ = ["server_recoveries", "worker_recoveries"]


def worker_recoveries(injected: Iterable[InjectedFault], entries: Sequence[Entry], origin_ns: int) -> list[Recovery]:
    """The recoveries of workers after the faults in `injected`, from the ledger. `origin_ns`: the beginning of the run,
    by the ledger's clock."""
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
    """The next time at which the task of an interrupted execution was seen to run; None: never."""
    elsewhere = [execution.at_ns for execution in executions if execution.at_ns > at_ns]
    itself = ended.get(of.facts["execution"])
    return min([*elsewhere, *([itself] if itself is not None else [])], default=None)


def server_recoveries(injected: Iterable[InjectedFault], done_s: Sequence[float]) -> list[Recovery]:
    """The recoveries after faults of the server in `injected`. `done_s`: the times at which the client heard of the end
    of a task, in order."""
    found = []
    for hit in injected:
        if hit.fault.kind in (Kind.SERVER_KILL, Kind.SERVER_STOP) and hit.healed_s is not None:
            first_s = next((at_s for at_s in done_s if at_s > hit.healed_s), None)
            if first_s is not None:
                found.append(Recovery(hit.fault, "server", first_s - hit.healed_s))
    return found
