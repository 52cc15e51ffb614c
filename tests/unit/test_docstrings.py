"""What a program calls says in its docstring which errors it raises."""

from __future__ import annotations

import inspect

import pytest

from coordinator.agent import CoordinatorAgent
from core.client.agent_client import AgentClient
from core.runtime.agent import Agent
from distributor.agent import DistributorAgent
from worker.agent import WorkerAgent

AGENTS = (CoordinatorAgent, DistributorAgent, WorkerAgent)
#: They end what there is, or look at it, and have nothing to refuse.
RAISE_NOTHING = {"close", "drain", "holder_of_the_loop"}


def docstrings(kind: type) -> dict[str, str]:
    """Of each public method of a class, without those that it inherits."""
    names = [name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))]
    return {name: inspect.getdoc(getattr(kind, name)) or "" for name in names}


@pytest.mark.parametrize("kind", [AgentClient, Agent, *AGENTS], ids=lambda kind: kind.__name__)
def test_every_call_of_a_program_says_what_it_raises(kind: type) -> None:
    silent = {name for name, text in docstrings(kind).items() if "aises" not in text}
    assert silent <= RAISE_NOTHING


@pytest.mark.parametrize("kind", AGENTS, ids=lambda kind: kind.__name__)
def test_every_call_that_needs_an_agent_at_work_names_the_error_for_one_that_is_not(kind: type) -> None:
    alone = {"execute_task", "acquire_shared_state_lease", "renew_shared_state_lease", "holder_of_the_loop"}
    silent = {name for name, text in docstrings(kind).items() if "LeaseLost" not in text}
    assert silent <= alone
