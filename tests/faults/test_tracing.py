"""LANGSMITH_TRACING is set for the graphs of users: what the tiers decide is nobody's to read there."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.tasks import Task
from tests.tiers import Tiers
from tests.waiting import until

USER_CODE = """
from typing import TypedDict
from langgraph.graph import END, START, StateGraph
from worker import agent, task

class Draft(TypedDict):
    text: str

@task("plain")
async def plain(payload):
    return payload

@agent("write")
def writer():
    graph = StateGraph(Draft)
    graph.add_node("outline_of_the_user", lambda draft: {"text": draft["text"] + " outlined"})
    graph.add_edge(START, "outline_of_the_user")
    graph.add_edge("outline_of_the_user", END)
    return graph
"""


class Traces:
    """What an endpoint for traces is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    def have(self, text: str) -> bool:
        return any(text.encode() in body for body in self.bodies)


@contextmanager
def traces() -> Iterator[Traces]:
    found = Traces()

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"{}")

        def do_POST(self) -> None:
            body = self._body()
            found.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self._answer(b"{}")

        do_PATCH = do_POST

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", f"{len(body)}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def test_what_is_traced_for_a_user_is_the_users_graph_and_nothing_of_what_the_tiers_decide(
    redis_config: RedisConfig, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(USER_CODE)
    with traces() as sent:
        traced = {
            "LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": sent.url, "LANGSMITH_API_KEY": "nobodys",
            "LANGSMITH_DISABLE_RUN_COMPRESSION": "true",
        }  # fmt: skip
        with Tiers(redis_config, tmp_path, **traced) as tiers:
            tiers.start("coordinator", "k")
            tiers.start("distributor", "d", "--coordinator", "k")
            tiers.start("worker", "w", "--coordinator", "k", "--distributor", "d", "--import", "./mine.py")
            with AgentClient(tiers.redis, tiers.secrets, "k") as client:
                for n in range(2):  # what was thought about the first has arrived when the second one's graph has
                    client.submit(Task(task_id=f"plain-{n}", task_type="plain", payload=f"of-everybody-{n}"))
                    client.submit(Task(task_id=f"write-{n}", task_type="write", payload={"text": f"of-a-user-{n}"}))
                    assert client.value(f"plain-{n}", 60) == f"of-everybody-{n}"
                    assert client.value(f"write-{n}", 60) == {"text": f"of-a-user-{n} outlined"}
                    until(partial(sent.have, f"of-a-user-{n} outlined"), "the user's graph is traced")

    assert sent.have("outline_of_the_user")
    # The id of the task is that of the graph's thread, which a trace names.
    assert not [word for word in ("of-everybody", "plain-0", "coordinator") if sent.have(word)]
