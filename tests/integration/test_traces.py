"""The trace of a root over real processes, one of which is killed, as OpenTelemetry's console exporter writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from core.chaos.processes import Processes
from core.config.settings import RedisConfig
from tests.executor_bench import INTEGRATION
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import ForkedTiers
from tests.waiting import until

AGENTS = ("coordinator-1", "distributor-1", "worker-1", "worker-2")
LISTENING = {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "100"}
#: LangChain imports it as well, if it is there.
WITHOUT_IT = """
import sys

class NotInstalled:
    asked = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            frame = sys._getframe(1)
            while "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            self.asked.append(frame.f_code.co_filename)
            raise ImportError(name)

sys.meta_path.insert(0, NotInstalled())

import coordinator.__main__, distributor.__main__, worker.__main__
from agent_system import LocalHierarchy, Task, task

@task("double")
async def double(number: int) -> int:
    return 2 * number

with LocalHierarchy() as client:
    assert client.value(client.submit(Task(task_type="double", payload=4))) == 8
print([name for name in NotInstalled.asked if "site-packages" not in name])
"""


def spans_in(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')]
    return [line for line in lines if "context" in line]


def name_of(span: dict[str, Any]) -> str:
    attempt = span["attributes"].get("agent_system.attempt.number")
    return f"{span['name']} {attempt}" if attempt else str(span["name"])


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> list[dict[str, Any]]:
    """Those of one root: submitted by `agents submit`, tried twice, with a child that is an agent."""
    folder = tmp_path_factory.mktemp("traces")
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(bundled_server()))
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        tiers = stack.enter_context(ForkedTiers(processes, redis, folder, WORKER_HOSTS="1", **LISTENING))
        for agent_id in AGENTS:
            code = ("--import", str(INTEGRATION / "traced_user_code.py")) if "worker" in agent_id else ()
            tiers.start(agent_id.partition("-")[0], agent_id, *code)
        command = [sys.executable, "-m", "core.cli", "submit", "plan", "null", "--wait", "--timeout", "60"]
        said = subprocess.run(command, env=tiers._environment, cwd=folder, capture_output=True, text=True, check=True)

        def told() -> list[dict[str, Any]]:
            texts = [said.stdout, *map(tiers.log, AGENTS)]
            return [{**span, "told_by": index} for index, text in enumerate(texts) for span in spans_in(text)]

        until(lambda: {"task plan", "process sum_up 3"} <= set(map(name_of, told())), "the last spans are told")
        return told()


def tree_of(spans: list[dict[str, Any]], parent_id: str | None = None) -> dict[str, Any]:
    """The names of the spans below one, each with those below it."""
    below = sorted((span for span in spans if span["parent_id"] == parent_id), key=name_of)
    return {name_of(span): tree_of(spans, span["context"]["span_id"]) for span in below}


def test_the_spans_of_a_root_are_one_tree_over_all_processes(spans: list[dict[str, Any]]) -> None:
    draft: dict[str, Any] = {
        "dispatch draft 1": {},
        "invoke_agent draft 1": {"node write": {"chat GenericFakeChatModel": {}}},
    }
    whole = {
        "dispatch plan 1": {},
        "dispatch plan 2": {},
        "dispatch sum_up 3": {},
        "process plan 1": {},
        "process plan 2": {"task draft": draft},
        "process sum_up 3": {},
    }
    assert tree_of(spans) == {"send plan": {"task plan": whole}}
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    assert len({span["told_by"] for span in spans}) == 4, "the client, both upper tiers, and the worker that lives"


def test_a_retry_is_linked_with_the_attempt_that_died_with_its_worker(spans: list[dict[str, Any]]) -> None:
    named = {name_of(span): span for span in spans}
    lost, retry = named["process plan 1"], named["process plan 2"]
    assert lost["attributes"]["error.type"] == "worker_lost"
    assert [link["context"]["span_id"] for link in retry["links"]] == [lost["context"]["span_id"]]


def test_agents_and_models_have_the_names_of_the_conventions(spans: list[dict[str, Any]]) -> None:
    named = {name_of(span): span["attributes"] for span in spans}
    assert named["send plan"]["messaging.operation.type"] == "send"
    assert named["invoke_agent draft 1"]["gen_ai.agent.name"] == "draft"
    assert named["chat GenericFakeChatModel"]["gen_ai.operation.name"] == "chat"


def test_agents_import_nothing_of_opentelemetry_where_nobody_listens(tmp_path: Path) -> None:
    code = tmp_path / "alone.py"
    code.write_text(WITHOUT_IT)
    said = subprocess.run([sys.executable, code], capture_output=True, text=True, check=False)
    assert said.stdout == "[]\n", said.stderr
