"""An agent that needs nothing but Python: it registers at a gateway, takes tasks, and answers.

    A2A_JWT=... python examples/outside_agent/agent.py upper-1 http://127.0.0.1:9001

A2A_JWT is its token, whose `sub` is its id and whose `role` is agent; or A2A_JWT_FILE names a file, which is read for
each request, so that a token can be replaced while the agent runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

#: Statuses after which it registers again: the gateway does not know it, or another one has it.
UNKNOWN = (404, 409)


def token() -> str:
    file = os.environ.get("A2A_JWT_FILE")
    return Path(file).read_text().strip() if file else os.environ.get("A2A_JWT", "")


def asked(method: str, url: str, body: Any = None) -> Any:
    """What the gateway answers. Raises HTTPError for a refusal, URLError if nobody is there."""
    headers = {"Content-Type": "application/json"}
    if bearer := token():
        headers["Authorization"] = f"Bearer {bearer}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def work(payload: Any) -> Any:
    return str(payload).upper()


def run(agent_id: str, gateway: str) -> None:
    """Works until it is interrupted."""
    agent = f"{gateway}/agents/{agent_id}"
    while True:
        try:
            asked("POST", f"{gateway}/agents/register", {"agent_id": agent_id, "services": ["upper"]})
            while True:
                for task in asked("GET", f"{agent}/tasks?wait_s=20")["tasks"]:
                    answer = {"attempt": task["attempt"], "status": "completed", "result": work(task["payload"])}
                    asked("POST", f"{agent}/tasks/{task['task_id']}/result", answer)
        except HTTPError as error:
            if error.code not in UNKNOWN:
                sys.stderr.write(f"{error.code}: {error.read().decode(errors='replace')}\n")
        except (URLError, TimeoutError, ConnectionError) as error:
            sys.stderr.write(f"the gateway cannot be reached: {error}\n")
        time.sleep(1)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:9001")
