"""A hierarchy for the fault matrix: a small one with short times, a client that writes down all it asks and is told.

coordinator-1 with a standby, two distributors, four workers. Every process has a name: its agent's id, with a `b` for
the one that waits to take its place.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from core.chaos.append_log import AppendLog, Transaction
from core.chaos.judge import Verdict, judge
from core.chaos.ledger import LEDGER_VARIABLE, Entry, Ledger, read_ledger
from core.chaos.processes import Processes
from core.chaos.proxy import Proxy
from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, RedisConfig
from core.errors import TaskTimeout, WorldError
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.tasks import Task
from tests.redis_server import RedisServer
from tests.waiting import until

__all__ = ["CLIENT", "COORDINATOR", "FAILURE_TIMEOUT_S", "LEASE_S", "PROFILE", "SECRET", "Stage", "role_of"]

SECRET = "a secret of the fault matrix, long enough"
LEASE_S = FAILURE_TIMEOUT_S = 2.0
PROFILE_ENVIRONMENT = {
    "AGENT_LEASE_S": f"{LEASE_S:g}",
    "AGENT_HEARTBEAT_S": "0.4",
    "AGENT_FAILURE_TIMEOUT_S": f"{FAILURE_TIMEOUT_S:g}",
    "LOG_FORMAT": "json",
    "A2A_TOKEN_SECRET": SECRET,
}
COORDINATOR, CLIENT = "coordinator-1", "client"
DISTRIBUTORS = ("distributor-1", "distributor-2")
WORKERS = ("worker-1", "worker-2", "worker-3", "worker-4")
PROFILE = (COORDINATOR, f"{COORDINATOR}b", *DISTRIBUTORS, *WORKERS)
#: So many tasks each worker runs at a time. What it has and has not begun beside them is bounded by its distributor.
CONCURRENCY = 4
#: A task that has not ended by then has been lost.
PATIENCE_S = 30.0
#: Then their cells are emptied and the last messages read; what is still there is told by the verdict.
SETTLE_S = 5.0


def role_of(name: str) -> str:
    return name.partition("-")[0]


class Stage:
    """Agents on one server. `close` kills what runs."""

    def __init__(self, server: RedisServer, processes: Processes, directory: Path) -> None:
        server.clean()
        self.server = server
        self.processes = processes
        processes.directory = directory
        processes.environment = {
            **os.environ,
            **PROFILE_ENVIRONMENT,
            **server.environment,
            "AGENT_EVENTS": "all",  # whatever they survive, they survive while they tell everything
            LEDGER_VARIABLE: str(directory / "ledger"),
        }
        self.redis = RedisConfig(url=server.url, password=server.password, mode="external")
        self.secrets = A2ASecrets(token_secret=SECRET)
        self.distributors: tuple[str, ...] = DISTRIBUTORS  #: workers are dealt out to them
        self.ledger = Ledger(directory / "ledger")
        self.client = AgentClient(self.redis, self.secrets, COORDINATOR)
        self.healthy = False  #: what was submitted has ended, and the verdict was clean
        server.write_log()
        self.links: dict[str, Proxy] = {}  #: by process, and the client's
        self._since = AppendLog(server.append_directory).end()
        self._ledger_path = directory / "ledger"
        self._number = 0
        self._open: set[str] = set()
        self._resources = ExitStack()

    # ---- processes ----

    def start(self, *names: str, failpoints: str = "", **environment: str) -> None:
        """Starts these, by default the whole profile."""
        if failpoints:
            environment["AGENT_FAILPOINTS"] = failpoints
        for name in names or PROFILE:
            waits = name.endswith("b") or name == COORDINATOR
            way = {"REDIS_URL": self.links[name].url} if name in self.links else {}
            self.processes.start(
                role_of(name),
                name.removesuffix("b"),
                *(["--standby"] if waits else []),
                *self.flags_of(name),
                name=name,
                environment={**environment, **way},
            )

    def flags_of(self, name: str) -> list[str]:
        """Those that every process of this agent has."""
        if role_of(name) == "coordinator":
            return []
        if role_of(name) == "distributor":
            return ["--coordinator", COORDINATOR]
        whose = ["--coordinator", COORDINATOR, "--distributor", self._distributor_of(name)]
        return [*whose, "--import", "core.chaos.work", "--concurrency", f"{CONCURRENCY}"]

    def _distributor_of(self, worker: str) -> str:
        number = int(worker.removesuffix("b").partition("-")[2])
        return self.distributors[(number - 1) % len(self.distributors)]

    def lease_key(self, name: str) -> str:
        """Of the agent that this process acts, or would act, for."""
        agent_id = name.removesuffix("b")
        if role_of(name) == "coordinator":
            return CoordinatorKeys(agent_id).agent.lease
        if role_of(name) == "distributor":
            return CellKeys(agent_id).lease
        return CellKeys(self._distributor_of(name)).worker(agent_id).lease

    def replace(self, name: str) -> None:
        """Kills a process, and starts it again."""
        self.processes.kill(name)
        self.start(name)

    def link(self, *names: str) -> None:
        """From now on these have a link of their own to the server, by which they can be parted from it: processes, and
        the `client`. Those that run are started again."""
        for name in names:
            self.links[name] = link = self._resources.enter_context(Proxy(self.server.socket))
            if name == CLIENT:
                self.client.close()
                through = RedisConfig(url=link.url, password=self.server.password, mode="external")
                self.client = AgentClient(through, self.secrets, COORDINATOR)
            elif self.processes.alive(name):
                self.replace(name)

    def ready(self, *names: str) -> None:
        """Returns when each of these acts for its id; by default, when somebody acts for each id of the profile."""
        for name in names:
            until(lambda name=name: self.acts(name), f"{name} acts")  # type: ignore[misc]
        for agent_id in () if names else sorted({name.removesuffix("b") for name in PROFILE}):
            self.acting(agent_id)

    def acts(self, name: str) -> bool:
        """Whether this very process holds its agent's lease."""
        return self.holder(name) == self.processes.pid(name)

    def holder(self, name: str) -> int | None:
        """The pid of who holds the lease of this process's agent; None: nobody does."""
        with self.server.connect() as client:
            [lease] = client.mget(self.lease_key(name))
        return int(json.loads(lease)["process"].split("/")[-2]) if lease else None

    def acting(self, agent_id: str) -> str:
        """The name of the process that acts for an agent, once there is one."""
        names = [name for name in (agent_id, f"{agent_id}b") if name in self.processes.names()]
        return until(lambda: next((name for name in names if self.acts(name)), ""), f"somebody acts for {agent_id}")

    def said(self, name: str, action: str) -> int:
        """How often the processes of this name have logged that action."""
        return self.processes.log(name).count(f'"action": "{action}"')

    def said_at(self, name: str, action: str) -> list[float]:
        """When the processes of this name have logged that action: seconds of the wall clock, which is the server's."""
        lines = [line for line in self.processes.log(name).splitlines() if f'"action": "{action}"' in line]
        return [datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines]

    def struck_at(self, name: str) -> float:
        """When the last process of this name came to its failpoint: seconds of the wall clock."""
        return self.said_at(name, "failpoint")[-1]

    def replaced_after(self, name: str, verdict: Verdict) -> float:
        """Seconds from when it came to its failpoint until another process was given its lease."""
        struck_s = self.struck_at(name)
        return next(grant.at_s for grant in verdict.grants[self.lease_key(name)] if grant.at_s > struck_s) - struck_s

    # ---- load ----

    def tasks(self, count: int, **payload: Any) -> list[Task]:
        """New tasks of the load, not submitted yet."""
        first, self._number = self._number + 1, self._number + count
        return [
            Task(task_id=f"t{number}", task_type="chaos.work", payload={"number": number, **payload})
            for number in range(first, self._number + 1)
        ]

    def submit(self, count: int, **payload: Any) -> list[str]:
        """Submits tasks until they are accepted, under the same ids if nobody answers; returns the ids."""
        return self.submit_tasks(self.tasks(count, **payload))

    def submit_tasks(self, tasks: Sequence[Task]) -> list[str]:
        ids = [task.task_id for task in tasks]
        self.healthy = False
        for task_id in ids:
            self.ledger.note("submitted", task_id)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.client.submit_many(tasks, timeout_s=PATIENCE_S)
                break
            except (TaskTimeout, WorldError):
                if time.monotonic() > deadline_s:
                    raise
        for task_id in ids:
            self.ledger.note("accepted", task_id)
        self._open.update(ids)
        return ids

    def load(self, enough: Callable[[], bool] = lambda: True, *, min_tasks: int = 120, max_tasks: int = 400) -> int:
        """Submits a few tasks at a time, with never too many open, until it is `enough` and `min_tasks` are submitted,
        but no more than `max_tasks`. Returns how many that were."""
        count = 0
        while count < min_tasks or (count < max_tasks and not enough()):
            self.submit(20)
            count += 20
            if len(self._open) >= 100:
                self.collect(leave=60)
        return count

    def collect(self, leave: int = 0) -> None:
        """Waits until no more than `leave` tasks are open; notes what the client is told of the others."""
        for task in self.client.as_completed(sorted(self._open), timeout_s=PATIENCE_S):
            self.ledger.note("result", task.task_id, status=task.status.value, result=task.result)
            self._open.discard(task.task_id)
            if len(self._open) <= leave:
                return

    # ---- the end ----

    def verdict(self) -> Verdict:
        """Waits for the ends of all tasks, a while for what is left to be done beside them, and judges all since the
        start."""
        if self._open:
            self.collect()
        deadline_s = time.monotonic() + SETTLE_S
        while (verdict := self._judge()).left and time.monotonic() < deadline_s:
            time.sleep(0.05)  # agents tell each other how they are: there may be a message at any moment
        self.healthy = verdict.clean
        return verdict

    def _judge(self) -> Verdict:
        return judge(self.entries(), self.transactions())

    def transactions(self) -> Iterator[Transaction]:
        """All that was written to the server since the start."""
        self.server.write_log()
        return AppendLog(self.server.append_directory).transactions(self._since)

    def executions(self) -> int:
        """How many have begun so far."""
        return sum(entry.kind == "began" for entry in read_ledger(self._ledger_path))

    def entries(self) -> list[Entry]:
        """All that was written down outside Redis so far."""
        return read_ledger(self._ledger_path)

    def close(self) -> None:
        self.client.close()
        self.processes.forget_all()
        self._resources.close()
        self.ledger.close()
