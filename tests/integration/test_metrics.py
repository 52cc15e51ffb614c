"""What agents tell of themselves to Prometheus: what has happened, in numbers that add up."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.errors import TaskFailed
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Action, Address, Role
from core.runtime.agent import Agent
from core.runtime.exposition import exposition
from core.tasks import Priority, Task
from tests.integration.hierarchy import House, add
from tests.integration.speaker import Redis, Speaker
from tests.waiting import until_async


def sample(agent: Agent, name: str, **labels: str) -> float:
    """The value of one sample; 0: there is none."""
    for family in text_string_to_metric_families(exposition(agent).decode()):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    return 0.0


async def test_tasks_attempts_messages_and_state_are_counted_where_they_happen(agents: House) -> None:
    top, middle, worker = await agents.coordinator(), await agents.distributor(), await agents.worker()
    me = await agents.client()

    for n in range(3):
        assert await me.value.aio(await me.submit.aio(add(f"t{n}", n))) == n
    with pytest.raises(TaskFailed):
        await me.value.aio(await me.submit.aio(Task(task_id="bad", task_type="add", payload="none", max_attempts=1)))

    assert sample(top, "agent_task_events_total", event="accepted") == 4
    assert sample(top, "agent_task_events_total", event="completed") == 3
    assert sample(top, "agent_tasks", state="open") == 0
    for tier in (top, middle):
        assert sample(tier, "agent_task_events_total", event="distributed") == 4
        assert sample(tier, "agent_distribution_seconds_count") == 4
        assert sample(tier, "agent_children", health="active") == 1
        assert sample(tier, "agent_children_by_load", load="idle") == 1
    assert sample(worker, "agent_attempt_duration_seconds_count", task_type="add", status="completed") == 3
    assert sample(worker, "agent_attempt_failures_total") == 1
    assert sample(middle, "agent_messages_total", direction="sent", action="assign_task", role="worker") >= 1
    assert sample(middle, "agent_message_latency_seconds_count", action="assign_task") >= 1
    for agent in (top, middle, worker):
        assert b"agent_clock_ahead_seconds" in exposition(agent)
        assert abs(sample(agent, "agent_clock_ahead_seconds")) < 1, "the server is on this machine"
        assert sample(agent, "agent_state_version") >= 1
        assert sample(agent, "agent_lease_acquisition_seconds_count") == 1
        assert sample(agent, "agent_commit_duration_seconds_count") >= sample(agent, "agent_state_version") - 2
        assert sample(agent, "agent_info", role=agent.chain[-1].role.value, agent_id=agent.agent_id) == 1


async def test_what_waits_is_counted_by_priority_with_the_age_of_the_first(agents: House) -> None:
    top, me = await agents.coordinator(), await agents.client()
    await me.submit_many.aio([add(f"t{n}", n).evolve(priority=Priority.HIGH) for n in range(3)])

    assert sample(top, "agent_queued_tasks", priority="high") == 3
    assert sample(top, "agent_queued_tasks", priority="low") == 0
    await until_async(lambda: sample(top, "agent_oldest_queued_seconds") > 0, "time passes")


async def test_the_time_until_a_death_is_noticed_is_measured(agents: House) -> None:
    _, middle, worker = await agents.coordinator(), await agents.distributor(), await agents.worker()
    await until_async(lambda: sample(middle, "agent_heartbeats_total", direction="received"), "the worker was heard")

    assert worker._running
    worker._running.cancel()  # as if killed: it says no goodbye

    await until_async(lambda: sample(middle, "agent_failure_detection_seconds_count") == 1, "its death was noticed")
    assert sample(middle, "agent_failure_detection_seconds_sum") >= middle.config.failure_timeout_s


async def test_a_message_that_goes_the_wrong_way_is_counted_as_a_routing_error(agents: House, client: Redis) -> None:
    top = await agents.coordinator()
    assert b"agent_routing_errors_total 0.0" in exposition(top)
    me = Address(Role.CLIENT, "client")
    speaker = Speaker(client, (top.chain[-1], me), top.chain[-1], CoordinatorKeys("k").agent.inbox)

    await speaker.say(Action.TASK_RESULT)

    await until_async(lambda: sample(top, "agent_routing_errors_total") == 1, "no client reports results")
    assert sample(top, "agent_messages_rejected_total", reason="not_permitted") == 1


async def test_agents_that_are_not_at_work_yet_answer_too(agents: House) -> None:
    top = await agents.coordinator()
    await top.close.aio()

    assert sample(top, "agent_ready") == 0
