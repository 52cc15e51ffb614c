"""Gateways whose Redis goes away, and gateways that are told to end, while much is open at them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from core.chaos.processes import Processes
from tests.executor_bench import INTEGRATION
from tests.gateways import Gateways, answers, free_port, gateways_of
from tests.waiting import until

WAIT_S = 60
GRAPHS = 9
STEPS: Any = {"assistant_id": "steps", "input": {"done": [], "hold": True}}
DONE: Any = {"done": ["first", "second"], "hold": True}
UPDATES: Any = [{"first": {"done": ["first"]}}, {"second": {"done": ["second"]}}]
SEND = {"sender_id": "teller", "receiver_id": "listed", "protocol": "peer_to_peer", "payload": "hello"}

#: A gateway that waits only for a moment until an answer of an agent is recorded.
HASTY = """
from worker import outside
outside.RECORDED_S = 0.5
from core.gateway.__main__ import main
raise SystemExit(main())
"""


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("gateway")
    code = str(INTEGRATION / "gateway_user_graphs.py")
    with gateways_of(
        processes, folder, code, append_only=True, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1"
    ) as opened:
        courier = {"GATEWAY_WEBHOOK_HOSTS": "127.0.0.1", "WEBHOOK_SECRET": "a secret that receivers know"}
        opened.start_all(courier, {})
        until(lambda: len(call(opened, "POST", "/assistants/search", {}).json()) >= GRAPHS, "the graphs are there", 60)
        yield opened


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For what is open beside the test, which ends with the gateways at the latest."""
    threads = ThreadPoolExecutor(16)
    yield threads
    threads.shutdown(wait=False)


def call(gateways: Gateways, method: str, path: str, body: Any = None, gateway: int = 0) -> httpx.Response:
    return httpx.request(method, f"{gateways.urls[gateway]}{path}", json=body, timeout=WAIT_S)


class Told:
    """A stream that is read beside the test."""

    def __init__(self, pool: ThreadPoolExecutor, method: str, url: str, body: Any = None, last_id: str = "") -> None:
        self.opened = False
        self.events: list[tuple[str, Any, str]] = []  #: name, data and id
        self.is_whole: Future[bool] = pool.submit(self._read, method, url, body, last_id)

    def _read(self, method: str, url: str, body: Any, last_id: str) -> bool:
        """Whether it has come to an end, when it was not cut."""
        event: dict[str, str] = {}
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with httpx.stream(method, url, json=body, headers=headers, timeout=WAIT_S) as answer:
                self.opened = answer.status_code == 200
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if line:
                        event[name] = value
                    elif "event" in event:
                        self.events.append((event["event"], json.loads(event.get("data", "null")), event.get("id", "")))
                        event = {}
                return True
        except httpx.RemoteProtocolError:
            return False

    def data(self, name: str) -> list[Any]:
        return [data for event, data, _ in self.events if event == name]


def new_thread(gateways: Gateways) -> str:
    thread_id: str = call(gateways, "POST", "/threads", {}).json()["thread_id"]
    return thread_id


def held_run(gateways: Gateways, pool: ThreadPoolExecutor, thread: str, **more: Any) -> Told:
    """The stream of a run that has come to its second node, where it waits until it may go on."""
    (gateways.folder / "go").unlink(missing_ok=True)
    body = {**STEPS, "stream_mode": ["updates", "custom"], **more}
    told = Told(pool, "POST", f"{gateways.urls[0]}/threads/{thread}/runs/stream", body)
    until(lambda: {"at": "second"} in told.data("custom"), "the run is held", WAIT_S)
    return told


def let_go(gateways: Gateways) -> None:
    (gateways.folder / "go").touch()


def closed_code(url: str, opened: list[Any]) -> int | None:
    """How a WebSocket is closed in the end; notes what it is told before."""
    with connect(url.replace("http", "ws")) as told:
        try:
            while True:
                opened.append(json.loads(told.recv()))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


def said(gateways: Gateways, gateway: int, since: int = 0) -> Counter[str]:
    """How often a gateway has logged which action above mere news, from line number `since` on."""
    lines = [line for line in gateways.log(gateways.urls[gateway]).splitlines() if line.startswith("{")]
    found = map(json.loads, lines[since:])
    return Counter(line.get("action", line["message"]) for line in found if line["level"] != "INFO")


def number_of_lines(gateways: Gateways, gateway: int) -> int:
    return len([line for line in gateways.log(gateways.urls[gateway]).splitlines() if line.startswith("{")])


def in_flight(gateways: Gateways) -> float:
    """How many requests the first gateway is answering, with this one."""
    [line] = re.findall("^gateway_requests_in_flight (.*)$", call(gateways, "GET", "/metrics").text, re.MULTILINE)
    return float(line)


@pytest.mark.matrix(55)
def test_what_is_open_goes_on_without_a_gap_when_redis_is_back(gateways: Gateways, pool: ThreadPoolExecutor) -> None:
    url, thread, idle = gateways.urls[0], new_thread(gateways), new_thread(gateways)
    call(gateways, "POST", "/agents/register", {"agent_id": "shell", "services": ["upper"], "lease_s": 60})
    for name in ("listed", "teller"):
        call(gateways, "POST", "/agents/register", {"agent_id": name, "lease_s": 60})
    call(gateways, "PUT", "/agents/teller/peers/listed")
    events = Told(pool, "GET", f"{url}/events/stream?type=task_completed")
    runs, of_thread = held_run(gateways, pool, thread), Told(pool, "GET", f"{url}/threads/{thread}/stream")
    of_idle = Told(pool, "GET", f"{url}/threads/{idle}/stream")
    waits = pool.submit(call, gateways, "POST", "/runs/wait", STEPS)
    work = pool.submit(call, gateways, "GET", "/agents/shell/tasks?wait_s=60")
    mail = pool.submit(call, gateways, "GET", "/agents/listed/messages?timeout_s=60")
    seen: list[Any] = []
    socket = pool.submit(closed_code, f"{url}/events/ws", seen)
    until(lambda: events.opened and of_idle.opened and of_thread.data("custom") and seen, "all is open", WAIT_S)
    since = number_of_lines(gateways, 0)

    gateways.server.kill()

    for method, path, body in (
        ("GET", "/tasks", None), ("GET", "/agents", None), ("GET", "/messages/history", None),
        ("GET", f"/threads/{thread}", None), ("POST", "/tasks/submit", {"task_type": "echo"}),
        ("POST", "/agents/listed/heartbeat", {}),
    ):  # fmt: skip
        refused = call(gateways, method, path, body)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5"), (path, refused.text)
        assert "make the request again" in refused.json()["detail"]
        assert f"{gateways.server.socket}" not in refused.text, "an address is nobody's business"
    assert call(gateways, "GET", "/ok").status_code == 200
    assert call(gateways, "GET", "/health").headers["Retry-After"] == "5"
    begun = Told(pool, "GET", f"{url}/events/stream?type=task_completed")
    until(lambda: begun.opened, "a stream is opened meanwhile")
    until(lambda: said(gateways, 0, since)["threads_expire_later"], "a look has failed")
    gateways.server.start()
    let_go(gateways)

    assert waits.result(WAIT_S).json() == DONE
    assert runs.is_whole.result(WAIT_S)
    assert runs.data("updates") == UPDATES
    assert runs.events[-1][0] == "end"
    until(lambda: {"status": "run_done"}.items() <= of_thread.data("metadata")[-1].items(), "the thread tells the end")
    assert of_thread.data("custom") == [{"at": "first"}, {"at": "second"}]
    until(lambda: len(events.events) == 2 and len(begun.events) == 2, "both ends are told, also as events")
    assert len([event for event in seen if event["type"] == "task_completed"]) == 2
    submitted = call(gateways, "POST", "/tasks/submit", {"task_type": "upper", "task_id": "of-shell", "payload": "x"})
    assert submitted.status_code == 202
    assert work.result(WAIT_S).json()["tasks"][0]["task_id"] == "of-shell"
    answer = {"attempt": 1, "status": "completed", "result": "X"}
    assert call(gateways, "POST", "/agents/shell/tasks/of-shell/result", answer).status_code == 204
    assert call(gateways, "POST", "/messages/send", SEND).status_code == 202
    assert mail.result(WAIT_S).json()["messages"][0]["payload"] == "hello"
    assert call(gateways, "POST", f"/threads/{idle}/runs/wait", STEPS).json() == DONE
    until(lambda: of_idle.data("values")[-1:] == [DONE], "an idle stream was not cut, and tells the next run")
    assert not socket.done()
    counted = said(gateways, 0, since)
    assert counted.pop("transport_down") == 2, "of the gateway, and of the agent that it speaks for"
    assert set(counted.values()) == {1}, counted
    assert "Traceback" not in gateways.log(url)


@pytest.mark.matrix(55)
def test_an_answer_that_redis_does_not_take_now_is_to_be_told_again_and_counts_once(gateways: Gateways) -> None:
    port = free_port()
    environment = {**gateways.tiers._environment}
    with (
        (gateways.folder / "hasty.log").open("wb") as log,
        subprocess.Popen([sys.executable, "-c", HASTY, "--port", f"{port}"], env=environment, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as agent,
    ):
        try:
            until(lambda: answers(f"{agent.base_url}"), "it answers", WAIT_S)
            agent.post("/agents/register", json={"agent_id": "patient", "services": ["patient"], "lease_s": 60})
            agent.post("/tasks/submit", json={"task_type": "patient", "task_id": "patient/1"})
            assert agent.get("/agents/patient/tasks?wait_s=30").json()["tasks"][0]["task_id"] == "patient/1"
            result = {"attempt": 1, "status": "completed", "result": "done"}
            gateways.server.kill()
            answer = agent.post("/agents/patient/tasks/patient/1/result", json=result)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            gateways.server.start()
            answered = until(lambda: told_again(agent, result), "it is recorded", WAIT_S)
            assert answered == 204
            assert agent.get("/tasks/patient/1/wait?timeout_s=30").json()["result"] == "done"
        finally:
            process.kill()


def told_again(agent: httpx.Client, result: Any) -> int | None:
    """The status of an answer that is told again; None: it is to be told once more."""
    status = agent.post("/agents/patient/tasks/patient/1/result", json=result).status_code
    return None if status == 503 else status


@pytest.mark.matrix(56)
def test_a_gateway_that_is_told_to_end_says_where_all_goes_on_and_ends_well(
    gateways: Gateways, pool: ThreadPoolExecutor
) -> None:
    url, thread = gateways.urls[0], new_thread(gateways)
    before = in_flight(gateways)
    runs = held_run(gateways, pool, thread, on_disconnect="cancel")
    events = Told(pool, "GET", f"{url}/events/stream?type=task_failed")
    seen: list[Any] = []
    socket = pool.submit(closed_code, f"{url}/events/ws", seen)
    call(gateways, "POST", "/tasks/submit", {"task_type": "nobody_can", "task_id": "waits"})
    waits = pool.submit(call, gateways, "GET", "/tasks/waits/wait?timeout_s=60")
    until(lambda: events.opened and seen and in_flight(gateways) == before + 4, "all is open", WAIT_S)
    since = number_of_lines(gateways, 0)

    gateways.signal(url, signal.SIGTERM)

    assert gateways.exit_code(url) == 0
    assert (runs.is_whole.result(WAIT_S), events.is_whole.result(WAIT_S)) == (False, False), "clients come back"
    assert socket.result(WAIT_S) == 1012
    ended = waits.result(WAIT_S)
    assert (ended.status_code, ended.headers["Retry-After"]) == (503, "1")
    assert "ask again, here or at another gateway" in ended.json()["detail"]
    assert not said(gateways, 0, since), gateways.log(url)[-3000:]

    run_id = runs.data("metadata")[0]["run_id"]
    again = f"{gateways.urls[1]}/threads/{thread}/runs/{run_id}/stream"
    rest = Told(pool, "GET", again, last_id=runs.events[-1][2])
    until(lambda: rest.opened, "it goes on at another gateway", WAIT_S)
    let_go(gateways)
    assert rest.is_whole.result(WAIT_S)
    assert [*runs.data("updates"), *rest.data("updates")] == UPDATES, "it was the gateway that left, and no client"
    gateways.start_again(url)


@pytest.mark.matrix(56)
def test_a_gateway_that_is_told_twice_to_end_ends_at_once(gateways: Gateways, pool: ThreadPoolExecutor) -> None:
    url = gateways.urls[0]
    call(gateways, "POST", "/tasks/submit", {"task_type": "nobody_can", "task_id": "waits"})
    before = in_flight(gateways)
    waits = pool.submit(httpx.get, f"{url}/tasks/waits/wait?timeout_s=60", timeout=WAIT_S)
    until(lambda: in_flight(gateways) == before + 1, "one waits")
    gateways.signal(url, signal.SIGTERM)
    until(lambda: '"gateway_ends"' in gateways.log(url).splitlines()[-1], "it ends")
    gateways.signal(url, signal.SIGINT)
    assert gateways.exit_code(url) == 130
    assert isinstance(waits.exception(WAIT_S), httpx.RemoteProtocolError)
    gateways.start_again(url)


@pytest.mark.matrix(55)
def test_streams_of_what_redis_has_lost_say_so_and_all_else_goes_on(
    gateways: Gateways, pool: ThreadPoolExecutor
) -> None:
    thread = new_thread(gateways)
    runs = held_run(gateways, pool, thread)
    events = Told(pool, "GET", f"{gateways.urls[0]}/events/stream?type=task_completed")
    until(lambda: events.opened, "it is open")
    since = number_of_lines(gateways, 0)

    gateways.server.kill()
    gateways.server.lose_data()
    gateways.server.start()

    assert runs.is_whole.result(WAIT_S)
    [lost] = runs.data("error")
    assert lost["error"] == "TaskLost"
    assert "Submit it again with the same id" in lost["message"]
    let_go(gateways)
    until(lambda: call(gateways, "GET", "/health").status_code == 200, "the hierarchy is there again", WAIT_S)
    assert call(gateways, "POST", "/runs/wait", STEPS).json() == DONE
    until(lambda: events.data("task_completed"), "events go on")
    assert events.data("events_missed")
    assert said(gateways, 0, since)["stream_ended"] == 1
    assert "Traceback" not in gateways.log(gateways.urls[0])
