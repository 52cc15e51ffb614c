"""Assembles the loop of an agent from its parts, and connects the parts with each other."""

from __future__ import annotations

from typing import Any

from core.backoff import Backoff
from core.langgraph_state import AgentStatus
from core.redis_backend.commit import Committer
from core.runtime.agent_loop import AgentLoop
from core.runtime.agent_setup import AgentSetup
from core.runtime.behaviour import Behaviour
from core.runtime.greeting import Greeting
from core.runtime.heard_heartbeats import HeardHeartbeats
from core.runtime.heartbeat import Heartbeat
from core.runtime.inbox import Inbox
from core.runtime.inbox_reader import InboxReader
from core.runtime.local_events import LocalEvents
from core.runtime.outbox import Outbox
from core.runtime.registration import Registration
from core.runtime.revocations import Revocations
from core.runtime.self_report import SelfReport
from core.runtime.step_writer import StepWriter
from core.runtime.watchdog import Watchdog
from core.step import HeartbeatDue

__all__ = ["assembled"]


def assembled(behaviour: Behaviour[Any], setup: AgentSetup, *, after_epoch: int = 0) -> AgentLoop:
    """The loop of an agent, which has not opened a connection yet. `after_epoch`: the highest fence that this agent has
    had in this process before."""
    config, signing, keys = setup.config, setup.signing, setup.keys

    def on_transport(up: bool) -> None:
        behaviour.state.status = AgentStatus.IDLE if up else AgentStatus.RECOVERING

    def on_heartbeat() -> None:
        behaviour.state.last_heartbeat = setup.clock.now()

    inbox = Inbox(
        setup.open_connection(), setup.me, signing, keys, setup.clock,
        freshness_ms=int(config.freshness_s * 1000), limit_bytes=config.message_limit_bytes,
    )  # fmt: skip
    watchdog = Watchdog(config.failure_timeout_s, lambda: committer.connection.waited_s, on_transport)
    committer = Committer(
        setup.open_connection(), setup.me, keys, setup.clock, lease_ms=setup.lease_ms, after_epoch=after_epoch,
        trail=setup.trail, on_transport=watchdog.transport, on_written=watchdog.written,
    )  # fmt: skip
    local_events = LocalEvents(setup.me)
    outbox = Outbox(setup.chain, signing)
    revocations = Revocations(setup.chain, signing, keys.revoked)
    greeting = Greeting(setup.chain, committer, config.failure_timeout_s)
    report = SelfReport(setup, behaviour, committer, inbox, outbox, watchdog, greeting)
    registration = Registration(setup, behaviour, committer, watchdog, greeting)
    heartbeat = Heartbeat(
        setup, committer, outbox, revocations, HeardHeartbeats(setup.me, signing, inbox.rejected), watchdog, report,
        registration, on_sent=on_heartbeat, on_heard=lambda memory: local_events.tell(HeartbeatDue(memory)),
    )  # fmt: skip
    return AgentLoop(
        setup=setup, behaviour=behaviour, committer=committer, watchdog=watchdog, inbox=inbox, outbox=outbox,
        reader=InboxReader(inbox, watchdog, Backoff.under_lease(config.lease_s), local_events.wake.set),
        local_events=local_events, greeting=greeting, report=report, heartbeat=heartbeat, registration=registration,
        writer=StepWriter(setup, committer, inbox, outbox, watchdog),
    )  # fmt: skip
