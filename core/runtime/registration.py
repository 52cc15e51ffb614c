"""Keeps an agent registered, with its heartbeat. What fails here stops no agent: it is tried again with the next one.

A registration goes in an exchange of its own, so that no refusal of it can touch a heartbeat. It costs one command, and
only when something has changed that others choose by, or when its lease asks for it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from msgspec.structs import replace

from core.errors import AgentSystemError, ServerRefused
from core.machine.own_process import CpuMeter, resident_mb
from core.ports import Command
from core.redis_backend.clock import monotonic_s
from core.redis_backend.commit import Committer
from core.redis_backend.keys import RegistryKeys
from core.redis_backend.registry_scripts import MORE_EXPIRED, SCRIPTS
from core.redis_client import ResponseError
from core.registry.agent_info import Declared, Lifecycle, Load, Vital
from core.registry.agent_registry import deregister_command, register_command, renew_command
from core.registry.discovery import OWN_TYPES
from core.registry.health import Successes, health_score, planned_ms, regularity
from core.roles import Role
from core.runtime.agent_setup import AgentSetup
from core.runtime.behaviour import Behaviour
from core.runtime.greeting import Greeting
from core.runtime.watchdog import Watchdog
from core.status_reports import Beat

__all__ = ["MOST_CALLS", "Registration"]

log = logging.getLogger(__name__)

TASK_SKILL = "task:"
#: How much a lease of the registry is longer than the failure timeout: an agent is suspect after that.
LEASE_TIMEOUTS = 2
#: With how many calls a coordinator removes those whose lease is over, with one heartbeat: a thousand agents or less.
MOST_CALLS = 20
#: Seconds that leaving the registry may take.
LEAVE_S = 2.0


class Registration:
    """That of one agent, in one life. Without `setup.profile` it does nothing."""

    def __init__(
        self,
        setup: AgentSetup,
        behaviour: Behaviour[Any],
        committer: Committer,
        watchdog: Watchdog,
        greeting: Greeting,
    ) -> None:
        self._setup = setup
        self._behaviour = behaviour
        self._committer = committer
        self._watchdog = watchdog
        self._greeting = greeting
        self._keys = RegistryKeys(setup.chain[0].agent_id)
        self._place = "/".join(map(str, setup.chain))
        self._lease_ms = int(setup.config.failure_timeout_s * LEASE_TIMEOUTS * 1000)
        self._cpu = CpuMeter()
        self._successes = Successes()
        self._counted = (0, 0)  # done and failed, as far as they are in there
        self._regularity = 1.0
        self._declared: Declared | None = None  # as it is registered; None: it is not
        self._told: tuple[object, ...] = ()  # what others choose by, as they were told it
        self._told_s = 0.0
        self._said = ""
        self._is_behind = False  # whether agents are left whose lease is over, and which this one removes

    async def refresh(self, beat: Beat) -> None:
        """Registers the agent, or extends its lease, if that is due. `beat`: what it has just told of itself."""
        profile = self._setup.profile
        if profile is None:
            return
        declared, lifecycle = _with_skills(profile, beat), self._lifecycle
        in_flight, capacity = len(self._behaviour.state.local_tasks), _capacity(beat)
        now_s = monotonic_s()
        told = (declared, lifecycle, in_flight, capacity, self._behaviour.paused)
        is_due = now_s - self._told_s + self._setup.config.heartbeat_s > planned_ms(self._lease_ms) / 1000
        if told == self._told and not is_due and not self._is_behind:
            return
        try:
            vital = self._vital(beat, lifecycle, in_flight, capacity, now_s)
            if declared == self._declared and not await self._renewed(vital):
                self._declared = None  # its lease was over, or the server has lost its memory
            if declared != self._declared:
                await self._register(declared, vital)
            self._told, self._told_s = told, now_s
        except AgentSystemError as error:
            self._note(str(error))

    async def leave(self) -> None:
        """Removes the agent from the registry, if it is registered."""
        if self._declared is None:
            return
        command = deregister_command(self._keys, self._declared.agent_id, self._committer.lease.incarnation)
        self._declared = None
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._run(command)
        except (AgentSystemError, TimeoutError) as error:
            self._note(str(error))

    async def _register(self, declared: Declared, vital: Vital) -> None:
        declared.check()
        reply = await self._run(
            register_command(
                self._keys, declared, vital, self._place, self._committer.lease.incarnation, self._lease_ms
            )
        )
        if isinstance(reply, bytes):
            self._note(f"its id is that of {reply.decode(errors='replace')}; give each agent of a hierarchy its own")
        else:
            self._declared, self._said = declared, ""

    async def _renewed(self, vital: Vital) -> bool:
        """Whether the lease could be extended. Each call also removes agents whose lease is over. A coordinator calls
        until none is left, a bounded number of times with each heartbeat, so that the indexes are right soon after
        many have died at once."""
        me, incarnation = self._setup.me, self._committer.lease.incarnation
        command = renew_command(self._keys, me.agent_id, vital, incarnation, self._lease_ms)
        reply: object = MORE_EXPIRED
        calls = MOST_CALLS if me.role is Role.COORDINATOR else 1
        while reply == MORE_EXPIRED and calls:
            reply, calls = await self._run(command), calls - 1
        self._is_behind = reply == MORE_EXPIRED and me.role is Role.COORDINATOR
        return reply != 0

    async def _run(self, command: Command) -> object:
        [reply] = await self._committer.look(command)
        if isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT"):
            *_, reply = await self._committer.look(*(("SCRIPT", "LOAD", script) for script in SCRIPTS), command)
        if isinstance(reply, ResponseError):
            raise ServerRefused(str(reply))
        return reply

    def _vital(self, beat: Beat, lifecycle: Lifecycle, in_flight: int, capacity: int, now_s: float) -> Vital:
        done, failed = beat.done - self._counted[0], beat.failed - self._counted[1]
        self._counted = beat.done, beat.failed
        self._successes.add(max(0, done), max(0, failed))
        if self._told_s:
            self._regularity = regularity(self._regularity, (now_s - self._told_s) * 1000, self._lease_ms)
        cpu, memory_mb = self._setup.process() if self._setup.process else (self._cpu.share(), resident_mb())
        load = Load(
            in_flight=in_flight,
            capacity=capacity,
            queue_age_ms=self._queue_age_ms,
            loop_lag_ms=round(self._watchdog.lag_s * 1000, 1),
            cpu=round(cpu, 3),
            memory_mb=round(memory_mb, 1),
        )
        score = health_score(
            self._regularity, self._successes.error_rate, self._watchdog.stalled_s * 1000, self._lease_ms
        )
        return Vital(
            lifecycle=lifecycle, load=load, health_score=score, regularity=self._regularity,
            is_paused=self._behaviour.paused, clock_ahead_ms=self._setup.clock.machine_ahead_ms,
        )  # fmt: skip

    @property
    def _queue_age_ms(self) -> int:
        waiting = self._behaviour.state.local_tasks.get(self._behaviour.first_waiting or "")
        if waiting is None:
            return 0
        since = max(waiting.created_at, waiting.not_before or waiting.created_at)
        return max(0, int((self._setup.clock.now() - since).total_seconds() * 1000))

    @property
    def _lifecycle(self) -> Lifecycle:
        if self._behaviour.state.draining:
            return Lifecycle.DRAINING
        return Lifecycle.ACTIVE if self._greeting.is_taken else Lifecycle.JOINING

    def _note(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            log.warning(
                "%s is not in the registry, and works without: %s", self._setup.me, problem,
                extra={"action": "agent_unregistered"},
            )  # fmt: skip


def _with_skills(profile: Declared, beat: Beat) -> Declared:
    """The profile, with what a heartbeat says that the agent, or its workers, can do."""
    services = [skill.removeprefix(TASK_SKILL) for skill in beat.capabilities if skill.startswith(TASK_SKILL)]
    skills = {skill for skill in beat.capabilities if not skill.startswith(TASK_SKILL)}
    return replace(
        profile,
        capabilities=tuple(sorted({*profile.capabilities, *skills})),
        services=tuple(sorted(name for name in services if not name.startswith(OWN_TYPES))),
        graphs=tuple(sorted(name for name in {*beat.agents, *beat.graphs} if not name.startswith(OWN_TYPES))),
        tags=tuple(dict.fromkeys((*profile.tags, *([f"region={beat.region}"] if beat.region else [])))),
    )


def _capacity(beat: Beat) -> int:
    """How many tasks it works on at once; 0: it has no such bound."""
    tasks = beat.capacity or beat.concurrency
    return tasks + (beat.agent_capacity or beat.agent_concurrency if beat.agents else 0)
