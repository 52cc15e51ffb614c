"""Every key, once. But for gateway_keys.py, nothing else in the system spells a key.

A distributor, its workers' inboxes and its state form a *cell*. A coordinator, its task records and its clients' reply
streams form another. All keys of a cell share one hash slot, since a transaction must stay within one. A key without
braces hashes by its whole name, so the tag `{shared:distributor:ID}` lies in the slot of the key
`shared:distributor:ID`.

    key                                      type    members                                   TTL       writer
    shared:distributor:D                     hash    distributor_version, coordinator_version, -         both halves
                                                     epoch, status, assigned_workers, ...
    {shared:distributor:D}:tasks:wanted      hash    task id -> what the coordinator wants      -         coordinator
    {shared:distributor:D}:tasks:actual      hash    task id -> the task's record here          -         distributor
    {shared:distributor:D}:lease             string  who acts as D now (JSON)                   lease     holder
    {shared:distributor:D}:fence             string  the highest epoch given out                -         holder
    {shared:distributor:D}:seen              hash    sender -> replay window                    -         distributor
    {shared:distributor:D}:inbox             stream  signed messages to D                       -         C, workers
    {shared:distributor:D}:heartbeats        hash    worker -> its last signed heartbeat        -         workers
    {shared:distributor:D}:changes           channel "side version": a hint, never truth        -         both
    {shared:distributor:D}:history           stream  audit trail of state changes, bounded      -         both
    {shared:distributor:D}:worker:W          hash    W's header: version, epoch                 -         W
    {shared:distributor:D}:standbys          zset    processes waiting for it, by last look     10 s      standbys
    {shared:distributor:D}:worker:W:lease, :fence, :seen, :inbox, :standbys    as above, for worker W
    {coordinator:C}:state                    hash    header: version, epoch, distributors, ...  -         coordinator
    {coordinator:C}:tasks                    hash    task id -> record, result once ended       -         coordinator
    {coordinator:C}:open                     zset    open task ids by submit time (ms)          -         coordinator
    {coordinator:C}:ended                    zset    ended task ids by end time (ms)            -         coordinator
    {coordinator:C}:dead                     zset    dead letters: ended task ids, by end time   -         coordinator
    {coordinator:C}:questions                zset    open tasks that ask a person, by when (ms)  -         coordinator
    {coordinator:C}:budgets                  hash    task id with an outermost budget ->         -         workers
                                                     what is spent and reserved below it
    {coordinator:C}:limits                   hash    name -> what it allows a minute (JSON)      -         workers, op.s
    {coordinator:C}:limits:alive             zset    workers with calls that wait, by last look  -         workers
    {coordinator:C}:limits:bucket:N          hash    what limit N has left (limit_scripts.py)   -         workers, op.s
    {coordinator:C}:limits:line:N            zset    calls of models that wait for it, in order  -         workers
    {coordinator:C}:limits:open:N            zset    calls that it has let through, by when (ms) -         workers
    {coordinator:C}:quotas                   hash    tenant:NAME, type:TYPE -> its quota (JSON)  -         coordinator
    {coordinator:C}:submissions              hash    entry id -> the message as it was signed,   -         coordinator
                                                     while a task of it is open or dead
    {coordinator:C}:schedules                hash    name -> what is opened when, and until when -         coordinator
                                                     that was decided
    {coordinator:C}:webhooks                 hash    id of a task that a schedule has opened ->  -         coordinator,
                                                     the URL to call at its end, until a gateway gateways
                                                     has taken that on
    {coordinator:C}:revoked                  string  lines: whose key was stolen, see revocations.py  -    operators
    {coordinator:C}:events                   stream  what C and all below it tell, bounded      -         all of them
    {coordinator:C}:agent:A                  hash    agent A as it has registered, see registry -         agents
                                                     (of one that is gone: 1 day)
    {coordinator:C}:agents:registered        zset    agents by the end of their lease (ms)      -         agents
    {coordinator:C}:agents:suspect           zset    agents by when they become suspect (ms)    -         agents
    {coordinator:C}:agents:indexes           set     names of the indexes that are not empty    -         agents
    {coordinator:C}:agents:by:KIND:VALUE     zset    ids of the agents with this type, status,   -         agents
                                                     capability, service, graph or tag; all: of
                                                     every agent
    {coordinator:C}:stream:T                 stream  what the graph of task T tells, bounded    1 h       workers
    {coordinator:C}:lease, :fence, :seen, :inbox, :heartbeats, :standbys    as above
    {coordinator:C}:client:X~S               stream  signed replies to session S of client X    1 h       coordinator
    {coordinator:C}:client:X~S:mark          string  nothing: X waits until replicas have it    1 min     client X
    {coordinator:C}:operator:X~S, ...:mark   as for clients
    {coordinator:C}:quarantine, {shared:distributor:D}:quarantine
                                             stream  rejected messages and why, bounded         -         the reader
    agents:active                            set     addresses with their cell, for `status`    -         every agent

An agent stream has the name that a program gives it. A is an audience of it, which is a consumer group.

    NAME                                     stream  signed events, bounded                     -         publishers
    {NAME}:audience:A:owners                 hash    session -> the consumer that has it now    -         consumers
    {NAME}:audience:A:held                   hash    session -> how many of it are pending      -         consumers
    {NAME}:audience:A:alive                  zset    consumer -> when it was last heard (ms)    -         consumers
    {NAME}:audience:A:tries                  hash    entry id -> how often it was tried again   7 days    consumers
    {NAME}:audience:A:dead                   stream  dead letters of the audience, bounded      -         consumers

A thread is what LangGraph remembers under a thread id T. The scripts that write here say what the names look like.

    {thread:T}:values                        hash    name -> checkpoint, value or write         option    savers
    {thread:T}:index                         zset    names of checkpoints and writes, in order  option    savers
    {thread:T}:fence                         string  order and attempt of who may write         option    savers

What the gateways of coordinator C remember together: see gateway_keys.py.

A store is LangGraph's memory beyond threads, under a name S.

    {store:S}:items                          hash    name -> item                               -         stores
    {store:S}:index                          zset    names of items, in order                   -         stores
    {store:S}:expiry                         zset    name -> when it expires (ms)               -         stores
"""

from __future__ import annotations

from dataclasses import dataclass

from core.roles import ASKERS, Address, Role

__all__ = [
    "ACTIVE",
    "AgentKeys",
    "AudienceKeys",
    "CellKeys",
    "CoordinatorKeys",
    "RegistryKeys",
    "StoreKeys",
    "ThreadKeys",
    "keys_of",
]

ACTIVE = "agents:active"


@dataclass(frozen=True, slots=True)
class AgentKeys:
    """The keys that an agent of any role has."""

    header: str  #: hash: its version and epoch; for a distributor the shared state's header
    lease: str
    fence: str
    seen: str
    inbox: str
    quarantine: str
    heartbeats: str  #: where the heartbeats of its children are
    parent_heartbeats: str | None  #: where its own heartbeat is
    standbys: str
    revoked: str | None  #: where the revocations of its children are; None: it has no children
    history: str | None  #: audit trail of the state it writes
    events: str | None = None  #: the event stream of a hierarchy, of whose type its coordinator takes care
    changes: str | None = None  #: channel for hints that the state has a new version
    version_field: str = "version"  #: which field of the header counts its commits

    @property
    def types(self) -> dict[str, bytes]:
        """The expected TYPE of each key that is not simply overwritten; a worker uses the quarantine of its parent."""
        types = {
            self.header: b"hash", self.seen: b"hash", self.inbox: b"stream", self.heartbeats: b"hash",
            self.standbys: b"zset",
        }  # fmt: skip
        if self.revoked:
            types[self.quarantine] = b"stream"
        if self.events:
            types[self.events] = b"stream"
        if self.history:
            types[self.history] = b"stream"
        return types


@dataclass(frozen=True, slots=True)
class CoordinatorKeys:
    """`{coordinator:ID}...`"""

    coordinator_id: str

    def _key(self, name: str) -> str:
        return f"{{coordinator:{self.coordinator_id}}}:{name}"

    @property
    def every(self) -> str:
        """A pattern that matches all of them."""
        return self._key("*")

    @property
    def tasks(self) -> str:
        return self._key("tasks")

    @property
    def open(self) -> str:
        return self._key("open")

    @property
    def ended(self) -> str:
        return self._key("ended")

    @property
    def dead(self) -> str:
        return self._key("dead")

    @property
    def questions(self) -> str:
        return self._key("questions")

    @property
    def budgets(self) -> str:
        return self._key("budgets")

    @property
    def limits(self) -> str:
        return self._key("limits")

    def limit(self, name: str) -> tuple[str, ...]:
        """What all limits allow, bucket, line and open calls of this one, and the workers that wait: the keys of each
        script."""
        own = (self._key(f"limits:{part}:{name}") for part in ("bucket", "line", "open"))
        return self.limits, *own, self._key("limits:alive")

    @property
    def submissions(self) -> str:
        return self._key("submissions")

    @property
    def schedules(self) -> str:
        return self._key("schedules")

    @property
    def webhooks(self) -> str:
        return self._key("webhooks")

    @property
    def quotas(self) -> str:
        return self._key("quotas")

    @property
    def revoked(self) -> str:
        return self._key("revoked")

    @property
    def events(self) -> str:
        return self._key("events")

    @property
    def header(self) -> str:
        return self._key("state")

    @property
    def inbox(self) -> str:
        return self._key("inbox")

    @property
    def heartbeats(self) -> str:
        return self._key("heartbeats")

    def replies(self, asker: Address) -> str:
        return self._key(str(asker))

    def run_stream(self, task_id: str) -> str:
        return self._key(f"stream:{task_id}")

    def mark(self, asker: Address) -> str:
        return self._key(f"{asker}:mark")

    @property
    def agent(self) -> AgentKeys:
        return AgentKeys(
            header=self.header,
            lease=self._key("lease"),
            fence=self._key("fence"),
            seen=self._key("seen"),
            inbox=self.inbox,
            quarantine=self._key("quarantine"),
            heartbeats=self.heartbeats,
            parent_heartbeats=None,
            standbys=self._key("standbys"),
            revoked=self.revoked,
            history=None,
            events=self.events,
        )


@dataclass(frozen=True, slots=True)
class RegistryKeys:
    """`{coordinator:ID}:agent:...` and `{coordinator:ID}:agents:...`"""

    coordinator_id: str

    def _key(self, name: str) -> str:
        return f"{{coordinator:{self.coordinator_id}}}:{name}"

    @property
    def records(self) -> str:
        """What the key of every record begins with."""
        return self._key("agent:")

    @property
    def indexes(self) -> str:
        """What the key of every index begins with."""
        return self._key("agents:by:")

    @property
    def every(self) -> tuple[str, ...]:
        """Patterns that match all of them."""
        return (*self.of_scripts, self.record("*"), self.index("*"))

    @property
    def of_scripts(self) -> tuple[str, str, str]:
        """Leases, suspects, names of indexes: the keys of each script."""
        return self._key("agents:registered"), self._key("agents:suspect"), self._key("agents:indexes")

    def record(self, agent_id: str) -> str:
        return f"{self.records}{agent_id}"

    def index(self, name: str) -> str:
        return f"{self.indexes}{name}"


@dataclass(frozen=True, slots=True)
class CellKeys:
    """`shared:distributor:ID` and `{shared:distributor:ID}...`"""

    distributor_id: str

    @property
    def header(self) -> str:
        return f"shared:distributor:{self.distributor_id}"

    def _key(self, name: str) -> str:
        return f"{{{self.header}}}:{name}"

    @property
    def every(self) -> str:
        """A pattern that matches all but the header."""
        return self._key("*")

    @property
    def wanted(self) -> str:
        return self._key("tasks:wanted")

    @property
    def actual(self) -> str:
        return self._key("tasks:actual")

    @property
    def changes(self) -> str:
        return self._key("changes")

    @property
    def history(self) -> str:
        return self._key("history")

    @property
    def inbox(self) -> str:
        return self._key("inbox")

    @property
    def heartbeats(self) -> str:
        return self._key("heartbeats")

    @property
    def lease(self) -> str:
        return self._key("lease")

    @property
    def fence(self) -> str:
        return self._key("fence")

    @property
    def quarantine(self) -> str:
        return self._key("quarantine")

    def worker_lease(self, worker_id: str) -> str:
        return self._key(f"worker:{worker_id}:lease")

    def worker_inbox(self, worker_id: str) -> str:
        return self._key(f"worker:{worker_id}:inbox")

    def agent(self, coordinator_id: str) -> AgentKeys:
        return AgentKeys(
            header=self.header,
            lease=self.lease,
            fence=self.fence,
            seen=self._key("seen"),
            inbox=self.inbox,
            quarantine=self.quarantine,
            heartbeats=self.heartbeats,
            parent_heartbeats=CoordinatorKeys(coordinator_id).heartbeats,
            standbys=self._key("standbys"),
            revoked=CoordinatorKeys(coordinator_id).revoked,
            history=self.history,
            changes=self.changes,
            version_field="distributor_version",
        )

    def worker(self, worker_id: str) -> AgentKeys:
        base = self._key(f"worker:{worker_id}")
        return AgentKeys(
            header=base,
            lease=f"{base}:lease",
            fence=f"{base}:fence",
            seen=f"{base}:seen",
            inbox=f"{base}:inbox",
            quarantine=self.quarantine,
            heartbeats=f"{base}:heartbeats",
            parent_heartbeats=self.heartbeats,
            standbys=f"{base}:standbys",
            revoked=None,
            history=None,
        )


@dataclass(frozen=True, slots=True)
class AudienceKeys:
    """An agent stream and what one audience keeps beside it: `{NAME}:audience:A...`"""

    stream: str
    group: str

    def _key(self, name: str) -> str:
        return f"{{{self.stream}}}:audience:{self.group}:{name}"

    @property
    def owners(self) -> str:
        return self._key("owners")

    @property
    def held(self) -> str:
        return self._key("held")

    @property
    def alive(self) -> str:
        return self._key("alive")

    @property
    def tries(self) -> str:
        return self._key("tries")

    @property
    def dead(self) -> str:
        return self._key("dead")


@dataclass(frozen=True, slots=True)
class ThreadKeys:
    """`{thread:ID}:...`"""

    thread_id: str

    @property
    def every(self) -> str:
        """A pattern that matches all of them."""
        return self._key("*")

    @property
    def all(self) -> tuple[str, str, str]:
        """Fence, values, index: the keys of each script."""
        return self._key("fence"), self._key("values"), self._key("index")

    def _key(self, name: str) -> str:
        return f"{{thread:{self.thread_id}}}:{name}"


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """`{store:NAME}:...`"""

    name: str

    @property
    def every(self) -> str:
        """A pattern that matches all of them."""
        return self._key("*")

    @property
    def all(self) -> tuple[str, str, str]:
        """Items, index, expiry: the keys of each script."""
        return self._key("items"), self._key("index"), self._key("expiry")

    def _key(self, name: str) -> str:
        return f"{{store:{self.name}}}:{name}"


def keys_of(chain: tuple[Address, ...]) -> AgentKeys:
    """The keys of the last agent of `chain`, which leads down from the coordinator."""
    me = chain[-1]
    if me.role is Role.COORDINATOR:
        return CoordinatorKeys(me.agent_id).agent
    if me.role is Role.DISTRIBUTOR:
        return CellKeys(me.agent_id).agent(chain[0].agent_id)
    return CellKeys(chain[1].agent_id).worker(me.agent_id)


def inbox_of(recipient: Address, chain: tuple[Address, ...]) -> str:
    """The stream that `recipient` reads, which is the parent or a child of the last of `chain`."""
    if recipient.role in ASKERS:
        return CoordinatorKeys(chain[0].agent_id).replies(recipient)
    if recipient.role is Role.COORDINATOR:
        return CoordinatorKeys(recipient.agent_id).inbox
    if recipient.role is Role.DISTRIBUTOR:
        return CellKeys(recipient.agent_id).inbox
    return CellKeys(chain[1].agent_id).worker_inbox(recipient.agent_id)
