"""`agents dlq` on a hierarchy of processes, as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from core.redis_backend.keys import CoordinatorKeys
from tests.installation import Installation
from tests.waiting import until


@pytest.fixture(scope="module")
def here() -> Iterator[Installation]:
    """A hierarchy at work, which the tests of this module share."""
    with Installation.opened() as installation:
        installation.up()
        yield installation


def failed(here: Installation, task_id: str, payload: str = '"x"') -> None:
    done = here.agents("submit", "boom", payload, "--id", task_id, "--wait")
    assert done.returncode == 1, done.stderr


def listed(here: Installation) -> list[str]:
    return [task["task_id"] for task in here.json("dlq", "list")]


def ended(here: Installation, task_id: str) -> dict[str, Any]:
    """The record of a task that was started by a replay, once it has ended."""
    here.agents("tasks", "wait", task_id)
    record: dict[str, Any] = here.json("tasks", "show", task_id)
    return record


def test_a_dead_letter_is_listed_and_shown_with_its_attempts_and_the_message_it_came_with(here: Installation) -> None:
    failed(here, "shown", '{"a": [1, 2]}')

    table = here.agents("dlq", "list").stdout
    text = here.agents("dlq", "show", "shown").stdout
    shown = here.json("dlq", "show", "shown")
    as_task = here.agents("tasks", "show", "shown").stdout

    assert "ValueError: no good: {'a': [1, 2]}" in next(line for line in table.splitlines() if line.startswith("shown"))
    for said in (text, as_task):
        assert "Attempt 1 on worker-" in said
        assert "\n    Traceback (most recent call last):" in said
    assert 'raise ValueError(f"no good: {payload}")' in text
    assert [error["attempt"] for error in shown["task"]["errors"]] == [1]
    assert (shown["message"]["signature"], shown["message"]["task"]["payload"]) == ("valid", {"a": [1, 2]})
    assert f"{len(listed(here))} dead letter(s), see `agents dlq list`" in here.agents("status").stdout
    assert shown["message"]["from"].startswith("client:")


def test_the_signature_is_judged_with_the_secret_that_is_configured_now(here: Installation) -> None:
    failed(here, "signed")

    rotated = {"A2A_TOKEN_SECRET": "another secret, long enough"}
    message = json.loads(here.agents("dlq", "show", "signed", "--json", **rotated).stdout)["message"]

    assert "cannot be checked any more" in message["signature"]


def test_a_dead_letter_runs_again_under_a_new_id_and_leaves_the_queue(here: Installation) -> None:
    failed(here, "again")

    done = here.agents("dlq", "replay", "again")

    assert (done.returncode, done.stdout) == (0, "again.replay1\n")
    assert ended(here, "again.replay1")["metadata"] == {"replay_of": "again"}
    assert "again" not in listed(here)
    assert "again.replay1" in listed(here)


def test_all_dead_letters_are_replayed_or_purged_at_once(here: Installation) -> None:
    for task_id in ("one", "two"):
        failed(here, task_id)
    before = listed(here)

    replayed = here.json("dlq", "replay", "--all")
    for new_id in replayed.values():
        ended(here, new_id)
    purged = here.json("dlq", "purge", "--all", "--yes")

    assert set(replayed) == set(before) >= {"one", "two"}
    assert set(purged) == set(replayed.values())
    assert listed(here) == []
    assert "there is no dead letter" in here.agents("dlq", "list").stderr


def test_what_is_no_dead_letter_is_refused_with_exit_code_1_and_the_others_are_done(here: Installation) -> None:
    failed(here, "good-one")

    done = here.agents("dlq", "purge", "good-one", "nobody-knows-it")

    assert done.returncode == 1
    assert "'nobody-knows-it' was refused: it is not a dead letter" in done.stderr
    assert "good-one" not in listed(here)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay"], "or --all"),
        (["purge", "x", "--all"], "or --all"),
        (["show", "nobody-knows-it"], "'nobody-knows-it' is not a dead letter"),
        (["show", "--quarantined", "coordinator:coordinator-1/1-1"], "no rejected message"),
    ],
)
def test_what_is_typed_wrong_is_explained_with_exit_code_2(
    here: Installation, arguments: list[str], words: str
) -> None:
    done = here.agents("dlq", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_rejected_message_is_listed_and_shown_with_its_reason_and_never_replayed(here: Installation) -> None:
    forged = {"from": "client:mallory", "kid": "0" * 8, "sig": "0" * 64, "body": '{"evil": "\x1b[2J"}'}
    with redis.Redis.from_url(here.environment["REDIS_URL"], password=here.environment.get("REDIS_PASSWORD")) as server:
        server.xadd(CoordinatorKeys("coordinator-1").inbox, {**forged})
    [found] = until(lambda: here.json("dlq", "list", "--quarantined"), "the message is rejected")

    text = here.agents("dlq", "show", "--quarantined", found["name"]).stdout
    refused = here.agents("dlq", "replay", found["name"])

    assert (found["reason"], found["sender"], found["body"]) == ("unknown_key", "client:mallory", forged["body"])
    assert "unknown_key" in text
    assert r'{"evil": "\x1b[2J"}' in text
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "rejected (unknown_key" in refused.stderr
    assert "never replayed" in refused.stderr


def test_rejected_messages_are_purged_by_name_or_all_and_the_doctor_warns_no_more(here: Installation) -> None:
    forged = {"from": "client:mallory", "kid": "0" * 8, "sig": "0" * 64, "body": "{}"}
    with redis.Redis.from_url(here.environment["REDIS_URL"], password=here.environment.get("REDIS_PASSWORD")) as server:
        for _ in range(3):
            server.xadd(CoordinatorKeys("coordinator-1").inbox, {**forged})
    until(lambda: len(here.json("dlq", "list", "--quarantined")) >= 3, "the messages are rejected")
    kept = here.json("dlq", "list", "--quarantined")

    purged = here.agents("dlq", "purge", "--quarantined", kept[0]["name"])
    again = here.agents("dlq", "purge", "--quarantined", kept[0]["name"])
    left = [found["name"] for found in here.json("dlq", "list", "--quarantined")]
    everything = here.agents("dlq", "purge", "--quarantined", "--all", "--yes")

    assert (purged.returncode, "purged: 1" in purged.stderr) == (0, True)
    assert (again.returncode, "not kept" in again.stderr) == (1, True)
    assert left == [found["name"] for found in kept[1:]]
    assert f"purged: {len(left)}" in everything.stderr
    assert here.json("dlq", "list", "--quarantined") == []
    [messages] = [finding for finding in here.json("doctor") if finding["check"] == "messages"]
    assert messages["state"] == "ok"


@pytest.mark.parametrize("quarantined", [[], ["--quarantined"]])
def test_all_are_purged_only_when_somebody_has_said_yes(here: Installation, quarantined: list[str]) -> None:
    failed(here, f"kept-{len(quarantined)}")

    unasked = here.agents("dlq", "purge", "--all", *quarantined)
    denied = here.agents("dlq", "purge", "--all", *quarantined, stdin="n\n")
    kept = listed(here)
    granted = here.agents("dlq", "purge", "--all", *quarantined, stdin="y\n")

    assert {unasked.returncode, denied.returncode} == {1}
    assert "--yes" in unasked.stderr
    assert f"kept-{len(quarantined)}" in kept
    assert (granted.returncode, "purged: " in granted.stderr) == (0, True)
