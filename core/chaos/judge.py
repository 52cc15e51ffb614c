"""Judges a run: it compares the ledger, which was kept outside Redis, with everything that Redis ever wrote.

lost     the task was accepted, and no end is recorded
untold   the task was accepted, and the client was never told of its end
double   an end was recorded twice, or the client was told twice
failed   the task did not complete, although the load's tasks have enough attempts to survive every fault
broken   another violation: a gap in versions, a write under an old fence, a result that no execution returned; of
         graphs, what `agent_judge` finds
left     work that is still there: entries in inboxes, tasks in cells, open tasks
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.chaos.agent_judge import NODES, AgentCounts, agent_counts, wrong_runs
from core.chaos.append_log import Transaction
from core.chaos.history import ENDED, Grant, History
from core.chaos.ledger import Entry
from core.chaos.run_history import RunHistory

__all__ = ["Verdict", "judge"]

#: The task types whose handlers record each execution, and name it in their result. Graphs do so for each node.
NOTING = "chaos."


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The verdict. `clean` says whether there are no findings. As text, it is the summary to show."""

    submitted: int
    accepted: int
    ended: int
    lost: tuple[str, ...]
    untold: tuple[str, ...]
    double: tuple[str, ...]
    failed: tuple[str, ...]
    broken: tuple[str, ...]
    left: Mapping[str, int]
    executions: Counter[str]  #: number of executions of each task
    replies: Counter[str]  #: number of messages to clients with each task's end
    grants: Mapping[str, Sequence[Grant]]  #: by the lease's key, in order
    commits: int
    agents: AgentCounts  #: of runs of graphs

    @property
    def clean(self) -> bool:
        return not (self.lost or self.untold or self.double or self.failed or self.broken or self.left)

    @property
    def executed(self) -> int:
        """The total number of executions."""
        return self.executions.total()

    def __repr__(self) -> str:
        found = [
            f"{len(named)} {what}: {', '.join(named[:5])}"
            for what, named in (
                ("lost", self.lost),
                ("untold", self.untold),
                ("double", self.double),
                ("failed", self.failed),
                ("broken", self.broken),
                ("left", [f"{key} ({count})" for key, count in self.left.items()]),
            )
            if named
        ]
        counts = f"{self.accepted} accepted, {self.ended} ended, {self.executed} executions, {self.commits} commits"
        return "; ".join([counts, *found])


def judge(ledger: Iterable[Entry], log: Iterable[Transaction]) -> Verdict:
    """The verdict on a ledger and an append-only file. Tasks of other clients count as well."""
    entries = list(ledger)
    history, runs = History(), RunHistory()
    for transaction in log:
        history.take(transaction)
        runs.take(transaction)
    of_kind: dict[str, list[Entry]] = {}
    for entry in entries:
        of_kind.setdefault(entry.kind, []).append(entry)
    accepted = {entry.task_id for entry in of_kind.get("accepted", ())}
    told = Counter(entry.task_id for entry in of_kind.get("result", ()))
    return Verdict(
        submitted=len({entry.task_id for entry in of_kind.get("submitted", ())}),
        accepted=len(accepted),
        ended=len(history.ends),
        lost=tuple(sorted((accepted | set(history.records)) - set(history.ends))),
        untold=tuple(sorted(accepted - set(told))),
        double=tuple(sorted({task_id for count in (history.ends, told) for task_id in count if count[task_id] > 1})),
        failed=tuple(sorted(_failed(history))),
        broken=(*history.broken, *_wrong_results(history, of_kind), *wrong_runs(history, runs, of_kind)),
        left=history.left,
        executions=Counter(entry.task_id for entry in of_kind.get("began", ())),
        replies=history.replies,
        grants=history.grants,
        commits=history.commits,
        agents=agent_counts(history, runs, of_kind),
    )


def _failed(history: History) -> Iterator[str]:
    for task_id, record in history.records.items():
        if record.get("status") in ENDED - {"completed"}:
            yield f"{task_id} {record['status']}"


def _wrong_results(history: History, of_kind: Mapping[str, Sequence[Entry]]) -> Iterator[str]:
    """Recorded results that no execution of their task returned, and ends told to the client that differ from the
    recorded ones."""
    executed = {entry.facts["execution"]: entry.task_id for entry in of_kind.get("ended", ())}
    for task_id, record in history.records.items():
        task_type, named = str(record.get("task_type")), list(_executions(record.get("result")))
        notes = task_type.startswith(NOTING) and task_type not in NODES
        if not named and record.get("status") == "completed" and notes:
            yield f"{task_id} has completed with a result that names no execution"
        for execution in named:
            whose = executed.get(execution)
            if whose is None:
                yield f"the result of {task_id} names execution {execution}, which the ledger does not know"
            elif whose != task_id and history.records.get(whose, {}).get("parent_id") != task_id:
                yield f"the result of {task_id} is that of {whose}"
    for entry in of_kind.get("result", ()):
        record = history.records.get(entry.task_id, {})
        if (entry.facts["status"], entry.facts["result"]) != (record.get("status"), record.get("result")):
            yield f"the client was told an end of {entry.task_id} that is not the one on record"


def _executions(result: Any) -> Iterator[str]:
    """The executions that a result names: one, or for a task that delegated, one of each child."""
    if isinstance(result, dict) and "execution" in result:
        yield result["execution"]
    elif isinstance(result, list):
        for part in result:
            yield from _executions(part)
