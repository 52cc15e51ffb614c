"""All errors of the system, grouped by whose fault they are and what the caller should do.

AgentSystemError
├── PeerError           the sender's fault: reject, acknowledge, count; never retry
│   ├── MalformedMessage, MessageTooLarge, BadSignature, UnknownKey, RevokedKey,
│   └── StaleMessage, ReplayedMessage, NotPermitted, ForgedRecord
├── RaceLost            somebody else was faster: reload, or stand down
│   ├── StateConflict, LeaseLost, LeaseHeld, FencedOut
├── WorldError          the surroundings: back off and try again
│   ├── TransportDown (ReplyTooLarge), ServerRefused, StreamFull
├── UserError           the caller's: the message names the cure
│   ├── ConfigError, EventLoopError, BadTask, BadEvent, BadAgent, AgentTaken, NotYours, BusClosed, NoGroup,
│   ├── CheckpointTooLarge, CheckpointUnreadable, DelegationRefused, AnswerRefused, BadRecording,
│   ├── BadSchedule, UnknownSchedule, BadWebhook,
│   └── TaskRefused, TaskFailed, TaskTimeout, UnknownTask, TaskLost
├── UnlawfulTransition  ours: a bug, let it surface
└── Wedged              ours: this process must be replaced by another
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class AgentSystemError(Exception):
    """The root: catch it to catch everything this package raises on purpose."""

    #: exit code of a command that ends with this error (sysexits where one fits)
    exit_code: ClassVar[int] = 1


class PeerError(AgentSystemError):
    """A message that must not be acted on. Quarantine it, acknowledge it, count it by `reason`."""

    exit_code = 77
    reason: ClassVar[str] = "rejected"


class MalformedMessage(PeerError):
    """The bytes are not an envelope, or the envelope breaks its schema."""

    reason = "malformed"


class MessageTooLarge(PeerError):
    """Larger than the limit, refused before it was parsed."""

    reason = "too_large"


class BadSignature(PeerError):
    """The signature does not match the bytes, the sender, the recipient or the key."""

    reason = "bad_signature"


class UnknownKey(PeerError):
    """Signed with a key id that is neither the current nor the previous one."""

    reason = "unknown_key"


class RevokedKey(PeerError):
    """The message is in the name of an id that was revoked, since its key was stolen."""

    reason = "revoked"


class StaleMessage(PeerError):
    """The times of signing and arrival differ by more than the freshness window, or the message is from an incarnation
    that has been replaced."""

    reason = "stale"


class ReplayedMessage(PeerError):
    """This sequence number of the sender was already taken."""

    reason = "replayed"


class ForgedRecord(PeerError):
    """A stored record without a valid seal of its writer: somebody else wrote it to Redis."""

    reason = "forged_record"


class NotPermitted(PeerError):
    """The sender's role may not send this action to this recipient."""

    reason = "not_permitted"


class RaceLost(AgentSystemError):
    """Nothing was written, because somebody else was faster."""


class StateConflict(RaceLost):
    """The stored version is not the expected one and stayed so after every try. Nothing was written: reload."""


class LeaseLost(RaceLost):
    """This process may no longer act for its agent id. Stop acting, discard what is in memory."""


class LeaseHeld(RaceLost):
    """Another live process acts for this agent id, so this one must not start."""

    def __init__(self, agent_id: str, owner: str) -> None:
        self.agent_id, self.owner = agent_id, owner
        super().__init__(
            f"another live process acts as {agent_id!r} ({owner}). Stop it, or start this one with another --id."
        )


class FencedOut(RaceLost):
    """A later attempt, or a later run, has the thread. Nothing was written; this run must end, and tells nobody."""


class Wedged(AgentSystemError):
    """The agent made no progress although there was work. It has ended itself, so that another process takes over."""

    exit_code = 70


class WorldError(AgentSystemError):
    """The surroundings failed; the same call may succeed later."""

    exit_code = 69


class TransportDown(WorldError):
    """Redis cannot be reached, or did not answer in time. A write may or may not have happened."""


class ReplyTooLarge(TransportDown):
    """The reply had more bytes than the caller allows; the connection is closed."""


class ServerRefused(WorldError):
    """Redis answered, and refused: out of memory, read-only, loading, or persistence failing. Nothing was written."""


class StreamFull(WorldError):
    """An agent stream has reached its bound, and an audience has yet to read what would have to go. Nothing was
    published: try again when it has, or do what the message says."""


class UserError(AgentSystemError):
    """The caller can correct this; the message says how."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, malformed or missing. The message names the variable, the problem and the cure."""

    exit_code = 78


class EventLoopError(UserError):
    """The call cannot work where it was made: it would block a loop, its loop has ended, or its process is a fork."""


class BadTask(UserError):
    """A task, its payload or its handler breaks a rule; the message names the field."""


class BadEvent(UserError):
    """An event breaks a rule: its data is no JSON, its type is unknown, its version is too new. The message names the
    field and the cure; nobody was told of the event."""


class BadAgent(UserError):
    """What an agent says of itself breaks a rule, or a search for agents does; the message names the field."""


class AgentTaken(UserError):
    """Another agent of that id is registered; `place` says where. Nothing was changed."""

    def __init__(self, agent_id: str, place: str) -> None:
        super().__init__(
            f"agent {agent_id!r} is registered already, at {place}. Use another id, or try again when it has left or"
            " its lease is over"
        )
        self.agent_id, self.place = agent_id, place


class NotYours(UserError):
    """An answer to an attempt that its agent does not have any more. It was not recorded; the message says why."""


class BusClosed(UserError):
    """The event bus was closed; nobody was told of the event."""


class NoGroup(UserError, ValueError):
    """The call is about what a consumer group has yet to acknowledge, and this coordinator has no group."""


class CheckpointTooLarge(UserError):
    """What one step would store is larger than the limit. Nothing of it was stored; the message names the largest
    channel and the cure."""


class CheckpointUnreadable(UserError):
    """A stored value cannot be read here: its type is not allowed, or its key of encryption is not there. It is still
    stored; the message names the cure."""


class TaskRefused(UserError):
    """The coordinator did not accept the task; nothing of it was kept. Of several that were submitted together,
    `refused` has all that were not accepted, with the reasons."""

    exit_code = 1

    def __init__(self, task_id: str, reason: str, refused: Mapping[str, str] | None = None) -> None:
        self.task_id, self.reason = task_id, reason
        self.refused = refused or {task_id: reason}
        super().__init__(f"task {task_id!r} was refused: {reason}")


class BadRecording(UserError):
    """What is to be replayed is no recording, or one that this release cannot read. The message says which."""

    exit_code = 65


class TaskFailed(UserError):
    """The task ended without a result.

    `status` is `failed`, `cancelled` or `abandoned`; `error_type`, `error_message` and
    `traceback` are those of the last attempt (empty where there was none).
    """

    exit_code = 1

    def __init__(
        self,
        task_id: str,
        status: str,
        error_type: str = "",
        error_message: str = "",
        traceback: str = "",
    ) -> None:
        self.task_id, self.status = task_id, status
        self.error_type, self.error_message, self.traceback = (
            error_type,
            error_message,
            traceback,
        )
        detail = f": {error_type}: {error_message}" if error_type else ""
        super().__init__(f"task {task_id!r} ended as {status}{detail}")


class BudgetExhausted(UserError, RuntimeError):  # LangGraph's nodes do not retry a RuntimeError
    """No model is called: the budget of the task, or of one above it, is spent. The message says which, and what of it.
    A run that does not catch this is given up."""


class DelegationRefused(UserError):
    """None of the delegated tasks has run. The message says why, for whoever plans what to do instead."""


class NotAdmitted(BadTask):
    """There is no room for a new task now, or its coordinator drains: the same task may be admitted later."""


class BadSchedule(UserError):
    """A schedule breaks a rule, or the coordinator does not take it; nothing has changed. The message names the field
    and the cure."""


class BadWebhook(UserError):
    """A webhook may not be called. The message says why, and what to do."""


class UnknownSchedule(UserError):
    """There is no schedule of that name, or it belongs to another client."""


class AnswerRefused(UserError):
    """The answer was not taken: the question has another one, was asked anew, or was never asked. The message says
    which."""

    exit_code = 1


class TaskTimeout(UserError):
    """The result was not there within the time the caller was willing to wait. The task goes on."""

    exit_code = 75


class UnknownTask(UserError):
    """There is no task of that id: it was never submitted here, or it ended longer ago than the retention time."""


class TaskLost(UserError):
    """Tasks that were accepted are gone, and will not end: Redis lost its data, or the last second of it."""

    exit_code = 1

    def __init__(self, *task_ids: str) -> None:
        self.task_ids = task_ids
        shown = ", ".join(map(repr, task_ids[:3])) + (f" and {len(task_ids) - 3} more" if len(task_ids) > 3 else "")
        super().__init__(
            f"accepted, and gone: task {shown}. Redis lost its data, all or the last second of it, or has records"
            " there that the coordinator has not written (`agents dlq list --quarantined` shows those)."
            " Submit it again with the same id, which is safe: it is one task."
            " (Was it accepted longer ago than TASK_RETENTION_S, then it may have ended, and been forgotten.)"
        )


class UnlawfulTransition(AgentSystemError):
    """A task was asked to change in a way its lifecycle does not allow. The task is unchanged; this is a bug."""

    exit_code = 70
