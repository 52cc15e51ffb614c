"""Checks the history of the system, from its append-only file, against the invariants:

* The versions of each state have no gaps.
* The fence of each lease grows with every grant. Nothing is written without a lease, or under one that has lapsed, was
  given back, or belongs to another process by then.
* A task ends once, and stays ended.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from core.chaos.append_log import Transaction
from core.stored import pairs

__all__ = ["ENDED", "TO_DO", "Grant", "History"]

ENDED = frozenset({"completed", "failed", "cancelled", "abandoned"})

#: The open work of a cell. It also shows the latest tasks that have ended there or wait for children.
TO_DO = frozenset({"pending", "in_progress"})

#: The headers of a coordinator, a cell and a worker, with the lease under which each of their versions is written.
_HEADER = re.compile(
    rb"(?P<coordinator>\{coordinator:[^}]+\}:)state|(?P<cell>shared:distributor:[^:}]+)"
    rb"|(?P<worker>\{shared:distributor:[^}]+\}:worker:[^:]+)"
)
_LEASE = re.compile(rb".+:lease")
#: Keys that only agents write, each under its lease; the desired state in a cell under the coordinator's lease.
_GUARDED = re.compile(
    rb"(?P<owner>\{[^}]+\}:(worker:[^:]+:)?)(tasks|open|questions|ended|dead|submissions|seen|tasks:actual|(?P<wanted>tasks:wanted))"
)
_RECORDS = re.compile(rb"\{coordinator:[^}]+\}:tasks")
_REPLIES = re.compile(rb"\{coordinator:[^}]+\}:client:.+")
#: Keys that are empty when no work is left.
_WORK = re.compile(rb"\{[^}]+\}:(open|questions|tasks:wanted|tasks:actual|(worker:[^:]+:)?inbox)")
#: Commands that add members, with the position of the first member and the number of arguments for each.
_PUTS = {b"HSET": (1, 2), b"ZADD": (2, 2), b"XADD": (1, 0)}
_REMOVES = frozenset({b"HDEL", b"ZREM", b"XDEL"})
#: The leases that a transaction renews or takes, by key.
Leases = Mapping[bytes, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Grant:
    """The grant of a lease to a process that did not hold it."""

    epoch: int  #: the fence
    process: str  #: machine/pid/start
    at_s: float  #: by the server's clock

    @property
    def pid(self) -> int:
        return int(self.process.split("/")[-2])


@dataclass(slots=True)
class History:
    """The checked history. Pass each transaction to `take`, in order."""

    grants: dict[str, list[Grant]] = field(default_factory=dict)  #: by the lease's key
    versions: dict[str, int] = field(default_factory=dict)  #: by header and field
    #: the latest record of each task, including deleted ones
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)  #: number of times that each task's end was recorded
    replies: Counter[str] = field(default_factory=Counter)  #: number of messages to clients with each task's end
    broken: list[str] = field(default_factory=list)  #: violations of the invariants, in words
    commits: int = 0
    _holders: dict[bytes, tuple[int, str]] = field(default_factory=dict)  # by lease: epoch and process
    _work: dict[bytes, set[bytes]] = field(default_factory=dict)

    def take(self, transaction: Transaction) -> None:
        if any(command[0] == b"FLUSHALL" for command in transaction.commands):
            self._holders.clear()
            self._work.clear()
            self.versions.clear()
        for key in transaction.deleted():
            self._holders.pop(key, None)
            self._work.pop(key, None)
        leases = {key: orjson.loads(value) for key, value, *_ in transaction.named(b"SET") if _LEASE.fullmatch(key)}
        self._take_leases(transaction, leases)
        for command in transaction.commands:
            self._take_command(command, leases)

    @property
    def left(self) -> dict[str, int]:
        """The work that is left, by key."""
        return {key.decode(): len(members) for key, members in sorted(self._work.items()) if members}

    # ---- leases ----

    def _take_leases(self, transaction: Transaction, leases: Leases) -> None:
        fences = {key: value for key, value, *_ in transaction.named(b"SET") if key.endswith(b":fence")}
        for key, lease in leases.items():
            self.commits += 1
            fence = fences.get(key.removesuffix(b"lease") + b"fence")
            self._take_lease(key, lease["epoch"], lease["process"], lease, fence)

    def _take_lease(self, key: bytes, epoch: int, process: str, lease: dict[str, Any], fence: bytes | None) -> None:
        name = key.decode()
        grants = self.grants.setdefault(name, [])
        if fence is not None:
            if int(fence) != epoch or (grants and epoch <= grants[-1].epoch):
                self._breach(f"{name}: fence {epoch} was granted to {process} after {grants[-1:]}")
            renewed_s = lease["expires_at"] - lease["lease_ms"] / 1000
            grants.append(Grant(epoch, process, renewed_s))
        elif self._holders.get(key) != (epoch, process):
            self._breach(f"{name}: {process} wrote under fence {epoch} while the holder was {self._holders.get(key)}")
        self._holders[key] = epoch, process

    # ---- what was written ----

    def _take_command(self, command: tuple[bytes, ...], leases: Leases) -> None:
        name, key = command[0], command[1] if len(command) > 1 else b""
        if (name in _PUTS or name in _REMOVES) and (guarded := _GUARDED.fullmatch(key)):
            lease = _of_coordinator(leases) if guarded["wanted"] else leases.get(guarded["owner"] + b"lease")
            if lease is None:
                self._breach(f"{key.decode()} was written outside of its lease")
        if name == b"HSET":
            if header := _HEADER.fullmatch(key):
                self._take_header(header, pairs(command[2:]), leases)
            elif _RECORDS.fullmatch(key):
                for task_id, record in pairs(command[2:]).items():
                    self._take_record(task_id.decode(), orjson.loads(record))
        elif name == b"XADD" and _REPLIES.fullmatch(key):
            self._take_reply(command)
        if _WORK.fullmatch(key):
            self._take_work(name, key, command[1:])

    def _take_header(self, header: re.Match[bytes], fields: dict[bytes, bytes], leases: Leases) -> None:
        for field_name in (b"version", b"distributor_version", b"coordinator_version"):
            if field_name not in fields:
                continue
            name, version = f"{header[0].decode()} {field_name.decode()}", int(fields[field_name])
            if version != self.versions.get(name, 0) + 1:
                self._breach(f"{name}: {version} was written after {self.versions.get(name, 0)}")
            self.versions[name] = version
            self._check_lease(header, field_name, fields, leases)

    def _check_lease(
        self, header: re.Match[bytes], field_name: bytes, fields: dict[bytes, bytes], leases: Leases
    ) -> None:
        """Checks that a version is written in the transaction that renews its writer's lease, with that lease's
        fence."""
        if field_name == b"coordinator_version":
            fence, lease = fields.get(b"coordinator_epoch"), _of_coordinator(leases)
        else:
            fence, lease = fields.get(b"epoch"), leases.get(_lease_of(header))
        if lease is None or fence is None or lease["epoch"] != int(fence):
            self._breach(f"{header[0].decode()}: a {field_name.decode()} was written outside of its lease")

    def _take_record(self, task_id: str, record: dict[str, Any]) -> None:
        before, self.records[task_id] = self.records.get(task_id), record
        if record.get("status", "pending") in ENDED:
            self.ends[task_id] += 1
        elif before is not None and before.get("status") in ENDED:
            self._breach(f"task {task_id} had ended as {before['status']} and became {record.get('status')} again")

    def _take_reply(self, command: tuple[bytes, ...]) -> None:
        payload = orjson.loads(command[command.index(b"body") + 1])["payload"]
        if payload["action"] == "task_result":
            self.replies.update(item["task_id"] for item in payload["tasks"])

    def _take_work(self, name: bytes, key: bytes, arguments: tuple[bytes, ...]) -> None:
        members = self._work.setdefault(key, set())
        if name in _PUTS:
            first, step = _PUTS[name]
            members.update(arguments[first::step] if step else arguments[first : first + 1])
            if key.endswith(b":tasks:actual"):
                members.difference_update(name for name, record in pairs(arguments[1:]).items() if not _to_do(record))
        elif name in _REMOVES:
            members.difference_update(arguments[1:])
        elif name == b"XTRIM" and arguments[-1] == b"0":  # no agent trims an inbox; an operator may
            members.clear()

    def _breach(self, what: str) -> None:
        self.broken.append(what)


def _of_coordinator(leases: Leases) -> dict[str, Any] | None:
    return next((lease for key, lease in leases.items() if key.startswith(b"{coordinator:")), None)


def _lease_of(header: re.Match[bytes]) -> bytes:
    if header["coordinator"]:
        return header["coordinator"] + b"lease"
    if header["cell"]:
        return b"{" + header["cell"] + b"}:lease"
    return header["worker"] + b":lease"


def _to_do(record: bytes) -> bool:
    return orjson.loads(record).get("status", "pending") in TO_DO
