"""Who is who, and who may say what to whom.

An address is a role and an id. The chain of command is coordinator > distributor > worker; clients and operators are
children of their coordinator, and so are their sessions: `client:bob~9f3c` is one program of `client:bob`, with a key
that follows from bob's. A client sees and changes the tasks that are its own or shared with it, and its own schedules;
an operator sees and changes all. Messages pass only between a parent and its child, and only those that the table
allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Self

from core.errors import ConfigError, MalformedMessage, NotPermitted

__all__ = ["ALLOWED", "ASKERS", "Action", "Address", "Role", "asker_of", "check_permitted", "options_of"]

AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SESSION = re.compile(r"[a-z0-9]{1,16}")


class Role(StrEnum):
    CLIENT = "client"
    OPERATOR = "operator"
    COORDINATOR = "coordinator"
    DISTRIBUTOR = "distributor"
    WORKER = "worker"


class Address(NamedTuple):
    """An agent: its role and its id. As text `worker:worker-1`."""

    role: Role
    agent_id: str

    def __str__(self) -> str:
        return f"{self.role.value}:{self.agent_id}"

    @property
    def name(self) -> str:
        """The id without a session: the owner of the key."""
        return self.agent_id.partition("~")[0]

    @property
    def session(self) -> str:
        """The session, which names one program of a client or operator; empty: the address has none."""
        return self.agent_id.partition("~")[2]

    @classmethod
    def of(cls, role: Role, agent_id: str) -> Self:
        """The address. An id has 1 to 64 letters, digits, `_`, `.` and `-`, and does not begin with a sign; that of a
        client or an operator may end in a session, `~` and 1 to 16 small letters and digits. Raises ConfigError."""
        name, mark, session = agent_id.partition("~")
        sound = not mark or (role in ASKERS and SESSION.fullmatch(session))
        if not (sound and AGENT_ID.fullmatch(name)):
            raise ConfigError(
                f"agent id {agent_id[:80]!r} is not allowed: use 1 to 64 letters, digits, '_', '.', '-',"
                " and begin with a letter or digit."
            )
        return cls(role, agent_id)

    @staticmethod
    def parse(text: bytes | str) -> Address:
        """The address written as `role:id`. Raises MalformedMessage."""
        return _parse(text)


#: The roles outside the chain of command. They come and go, with ever new sessions.
ASKERS = frozenset({Role.CLIENT, Role.OPERATOR})


def asker_of(client_id: str) -> Address:
    """The address that a client id names: `NAME`, a client, or `operator:NAME`. Raises ConfigError."""
    role, mark, name = client_id.rpartition(":")
    if mark and role not in ASKERS:
        raise ConfigError(f"client id {client_id[:80]!r} is not allowed: give a NAME, or operator:NAME.")
    return Address.of(Role(role) if mark else Role.CLIENT, name)


def options_of(above: Iterable[Address]) -> str:
    """The options by which a command of ours names the agents above an agent, each after a space."""
    return "".join(f" --{address.role} {address.agent_id}" for address in above)


@lru_cache(maxsize=16_384)  # of a large fleet, an overview takes all in turn
def _parse(text: bytes | str) -> Address:
    try:
        role, _, agent_id = (text.decode("ascii") if isinstance(text, bytes) else text).partition(":")
        return Address.of(Role(role), agent_id)
    except (ValueError, ConfigError):
        raise MalformedMessage("the sender is not an address of the form role:id") from None


class Action(StrEnum):
    """What a message asks for or reports: `payload["action"]`."""

    SUBMIT_TASK = "submit_task"  #: client, operator: run these
    WATCH_TASK = "watch_task"  #: tell me of the end of these
    CANCEL_TASK = "cancel_task"  #: stop these, with their subtrees
    REPLAY_TASK = "replay_task"  #: run these dead letters again, each as a new task
    PURGE_TASK = "purge_task"  #: forget these dead letters
    ANSWER_QUESTION = "answer_question"  #: these are the answers to questions of suspended tasks
    LIST_QUESTIONS = "list_questions"  #: tell me which questions are open
    SET_SCHEDULE = "set_schedule"  #: open tasks by these schedules, in the place of those of their names
    REMOVE_SCHEDULE = "remove_schedule"  #: forget these
    PAUSE_SCHEDULE = "pause_schedule"  #: open nothing by these until they are resumed
    RESUME_SCHEDULE = "resume_schedule"  #: go on with these, from now on
    LIST_SCHEDULES = "list_schedules"  #: tell me which schedules there are
    SET_QUOTA = "set_quota"  #: operator: these are the quotas of tenants and types from now on
    RETURN_TASK = "return_task"  #: give these back, unless they have begun
    SET_STRATEGY = "set_strategy"  #: operator, and by that a coordinator: choose by this strategy from now on
    TASK_ACCEPTED = "task_accepted"  #: the answer to all of these, with what was refused
    ASSIGN_TASK = "assign_task"  #: these are yours now
    TASK_RESULT = "task_result"  #: these have ended, or come back
    TASK_PROGRESS = "task_progress"  #: how far these are
    AGENT_JOINED = "agent_joined"  #: I am here, with this capacity
    AGENT_LEFT = "agent_left"  #: I stop; nothing of yours is left with me
    CAPACITY = "capacity"  #: what I can take has changed
    BEAT = "beat"  #: the heartbeat


K, D, W = Role.COORDINATOR, Role.DISTRIBUTOR, Role.WORKER
ASKED = frozenset(
    {
        Action.SUBMIT_TASK,
        Action.WATCH_TASK,
        Action.CANCEL_TASK,
        Action.REPLAY_TASK,
        Action.PURGE_TASK,
        Action.ANSWER_QUESTION,
        Action.LIST_QUESTIONS,
        Action.SET_SCHEDULE,
        Action.REMOVE_SCHEDULE,
        Action.PAUSE_SCHEDULE,
        Action.RESUME_SCHEDULE,
        Action.LIST_SCHEDULES,
    }
)
ANSWERED = frozenset({Action.TASK_ACCEPTED, Action.TASK_RESULT})

#: (sender, recipient) -> the actions that it may send. Any other action is refused and counted.
ALLOWED: dict[tuple[Role, Role], frozenset[Action]] = {
    (Role.CLIENT, K): ASKED,
    (Role.OPERATOR, K): ASKED | {Action.SET_QUOTA, Action.SET_STRATEGY},
    **{(K, asker): ANSWERED for asker in ASKERS},
    (K, D): frozenset({Action.ASSIGN_TASK, Action.CANCEL_TASK, Action.RETURN_TASK, Action.SET_STRATEGY}),
    (D, K): frozenset({Action.TASK_RESULT, Action.AGENT_JOINED, Action.AGENT_LEFT, Action.CAPACITY, Action.BEAT}),
    (D, W): frozenset({Action.ASSIGN_TASK, Action.CANCEL_TASK, Action.RETURN_TASK}),
    (W, D): frozenset(
        {
            Action.TASK_RESULT,
            Action.TASK_PROGRESS,
            Action.AGENT_JOINED,
            Action.AGENT_LEFT,
            Action.BEAT,
        }
    ),
}


def check_permitted(sender: Role, recipient: Role, action: str) -> None:
    """Raises NotPermitted unless the table lets `sender` send `action` to `recipient`."""
    if action not in ALLOWED.get((sender, recipient), ()):
        raise NotPermitted(f"a {sender} may not send {action[:40]!r} to a {recipient}")
