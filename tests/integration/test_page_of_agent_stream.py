"""The program in docs/events.md with an agent stream runs as it stands, in two processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from core.config.settings import RedisConfig
from tests.pages import sample_of
from tests.redis_server import RedisServer

LINES_OF_A_PROGRAM = 25


@pytest.mark.parametrize("order", [("follow", ""), ("", "follow")], ids=["reader first", "writer first"])
def test_the_program_with_a_stream_runs_as_it_stands(
    redis_server: RedisServer, redis_config: RedisConfig, order: tuple[str, str]
) -> None:
    program = sample_of("docs/events.md", "Between processes: the agent stream")
    assert program.count("\n") <= LINES_OF_A_PROGRAM
    environ = {**os.environ, "REDIS_URL": redis_server.url, "REDIS_PASSWORD": redis_server.password}
    started = [
        subprocess.Popen([sys.executable, "-c", program, role], env=environ, stdout=subprocess.PIPE, text=True)
        for role in order
    ]
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "".join(printed).splitlines() == [
        "session-1 tool_result {'session_id': 'session-1', 'tool_name': 'search', 'result': {'hits': 3},"
        " 'execution_time_ms': 12.5}",
        "session-1 agent_completed {'session_id': 'session-1', 'agent_name': 'scout', 'output_summary': '3 hits',"
        " 'duration_ms': 20.0, 'tokens_used': 40}",
    ]
