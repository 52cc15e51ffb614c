"""Webhooks: a receiver of the test is told of the ends of runs and tasks, whichever gateway dies."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from langgraph_sdk import get_client

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.schedules import Schedule
from tests.executor_bench import INTEGRATION
from tests.gateways import Gateways, gateways_of
from tests.waiting import until

SECRET = "a secret that receivers know"
CALLS = {"GATEWAY_WEBHOOK_HOSTS": "127.0.0.1,localhost", "WEBHOOK_SECRET": SECRET}


class Call(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Takes calls, and answers them with these statuses in turn, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.calls: list[Call] = []
        left = list(statuses)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.calls.append(Call(self.path, dict(self.headers), body))
                self.send_response(left.pop(0) if left else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/ended?by=us"


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    receiver = Receiver(*statuses)
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("gateway")
    code = str(INTEGRATION / "gateway_user_graphs.py")
    with gateways_of(processes, folder, code, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1") as made:
        yield made


@pytest.fixture(scope="module")
def url(gateways: Gateways) -> str:
    found = gateways.start(**CALLS)
    until(lambda: len(httpx.post(f"{found}/assistants/search", json={}).json()) >= 4, "the graphs are there", 60)
    return found


def told(call: Call) -> dict[str, Any]:
    """What a call says, if it is signed as it should be."""
    at, mac = (part.partition("=")[2] for part in call.headers["X-Signature"].split(","))
    assert hmac.new(SECRET.encode(), f"{at}.".encode() + call.body, hashlib.sha256).hexdigest() == mac
    said: dict[str, Any] = orjson.loads(call.body)
    return said


async def test_the_end_of_a_run_is_told_once_signed_and_with_its_values(url: str) -> None:
    with receiving() as receiver:
        async with get_client(url=url, api_key=None) as sdk:
            thread = (await sdk.threads.create())["thread_id"]
            run = await sdk.runs.create(thread, "steps", input={"done": []}, webhook=receiver.url("localhost"))
            until(lambda: receiver.calls, "it is called")
        [call] = receiver.calls
        said = told(call)
        assert call.path == "/ended?by=us"
        assert call.headers["Host"] == f"localhost:{receiver.port}"
        assert call.headers["X-Delivery-Id"] == run["run_id"]
        assert (said["run_id"], said["thread_id"], said["status"]) == (run["run_id"], thread, "success")
        assert said["values"] == {"done": ["first", "second"]}


async def test_a_question_is_an_end_and_the_run_that_resumes_it_has_another(url: str) -> None:
    with receiving() as receiver:
        async with get_client(url=url, api_key=None) as sdk:
            thread = (await sdk.threads.create())["thread_id"]
            await sdk.runs.create(thread, "asks", input={"done": []}, webhook=receiver.url())
            until(lambda: receiver.calls, "it is called")
            resumed = await sdk.runs.create(thread, "asks", command={"resume": "yes"}, webhook=receiver.url())
            until(lambda: len(receiver.calls) == 2, "it is called again")
        asked, ended = map(told, receiver.calls)
        assert (asked["status"], asked["interrupts"][0]["value"]) == ("interrupted", {"question": "really?"})
        assert (ended["run_id"], ended["status"]) == (resumed["run_id"], "success")
        assert ended["values"]["done"] == ["first", "yes", "second"]


def test_another_gateway_goes_on_when_a_receiver_fails_and_a_gateway_dies(gateways: Gateways, url: str) -> None:
    with receiving(500, 302) as receiver:
        dying = gateways.start(**CALLS)
        task = {"task_type": "fails", "payload": {}, "webhook": receiver.url()}
        answer = httpx.post(f"{dying}/tasks/submit", json=task)
        assert answer.status_code == 202, answer.text
        [task_id] = answer.json()["task_ids"]
        until(lambda: receiver.calls, "it was tried")
        gateways.kill(dying)
        until(lambda: len(receiver.calls) == 3, "it was tried until it was taken", 60)
        listed = httpx.get(f"{url}/webhooks/failed").json()
        assert listed == []
    assert {call.headers["X-Delivery-Id"] for call in receiver.calls} == {task_id}
    assert {call.path for call in receiver.calls} == {"/ended?by=us"}
    said = told(receiver.calls[-1])
    assert (said["task_id"], said["status"], said["error"]["type"]) == (task_id, "failed", "ValueError")


def test_each_task_that_a_schedule_opens_is_told_once_it_has_ended(gateways: Gateways, url: str) -> None:
    also = gateways.start(**CALLS)
    with receiving() as receiver:
        task = {"task_type": "steps", "payload": {"done": []}}
        schedule = {"task": task, "every_s": 1, "webhook": receiver.url()}
        made = httpx.put(f"{url}/schedules/tick", json=schedule)
        assert (made.status_code, made.json()["webhook"]) == (200, receiver.url()), made.text
        until(lambda: len(receiver.calls) >= 2, "two of its tasks are told")
        assert httpx.delete(f"{also}/schedules/tick").status_code == 204
        gateways.kill(also)
        ids = [call.headers["X-Delivery-Id"] for call in receiver.calls]
        assert len(set(ids)) == len(ids)
        assert all(task_id.startswith("tick@") for task_id in ids)
        said = told(receiver.calls[0])
        assert (said["task_id"], said["status"], said["result"]) == (
            ids[0], "completed", {"done": ["first", "second"]},
        )  # fmt: skip


def test_each_run_that_a_cron_begins_is_told_as_a_run(gateways: Gateways, url: str) -> None:
    with receiving() as receiver:
        body = {"assistant_id": "steps", "schedule": "0 0 1 1 *", "input": {"done": []}, "webhook": receiver.url()}
        made = httpx.post(f"{url}/runs/crons", json=body)
        assert (made.status_code, made.json()["payload"]["webhook"]) == (200, receiver.url()), made.text
        tiers = gateways.tiers
        with AgentClient(tiers.redis, tiers.secrets, "coordinator-1", "gateway") as gateway:
            known = gateway.schedules.get(made.json()["cron_id"]).to_dict()
            # No cron comes true more often than each minute, for which nobody wants to wait here.
            fields = {name: known[name] for name in ("name", "task", "metadata", "webhook")}
            gateway.schedules.set(Schedule(**fields, every_s=1))
            until(lambda: bool(receiver.calls), "one of its runs is told")
            gateway.schedules.remove(known["name"])
        said = told(receiver.calls[0])
        assert said["run_id"].startswith(f"{known['name']}@")
        assert (said["status"], said["values"]) == ("success", {"done": ["first", "second"]})
        refused = httpx.post(f"{url}/runs/crons", json=body | {"webhook": "http://10.0.0.1/"})
        assert (refused.status_code, "is not allowed" in refused.json()["detail"]) == (422, True), refused.text


def test_who_may_not_be_called_is_refused_before_anything_runs(url: str) -> None:
    for webhook in ("http://10.0.0.1/", "http://elsewhere.example/", "http://169.254.169.254/latest/meta-data"):
        for path, body in (
            ("/runs", {"assistant_id": "steps", "input": {"done": []}}),
            ("/tasks/submit", {"task_type": "echo"}),
        ):
            refused = httpx.post(f"{url}{path}", json=body | {"webhook": webhook})
            assert (refused.status_code, "is not allowed" in refused.json()["detail"]) == (422, True), refused.text
        scheduled = {"task": {"task_type": "echo"}, "every_s": 60, "webhook": webhook}
        refused = httpx.put(f"{url}/schedules/bad", json=scheduled)
        assert (refused.status_code, "is not allowed" in refused.json()["detail"]) == (422, True), refused.text
