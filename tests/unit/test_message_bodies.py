"""What a body of bytes has to be to count as a message, and what comes out of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import orjson
import pytest
from msgspec import Raw
from msgspec.structs import replace

from core.a2a_messaging import MAX_ITEMS, A2AMessage
from core.errors import BadSignature, BadTask, MalformedMessage, MessageTooLarge
from core.signing import KeyRing
from tests.builders import CLIENT, COORDINATOR, SECRET, a_message

MESSAGE = a_message(CLIENT, COORDINATOR, "submit_task", more=[1])
FIELDS: dict[str, Any] = orjson.loads(MESSAGE.encode())


def body(**changes: Any) -> bytes:
    return orjson.dumps({**FIELDS, **changes})


@pytest.mark.parametrize(
    ("payload", "items"),
    [
        ({"tasks": [{"a": 1}, 2]}, [b'{"a":1}', b"2"]),
        ({"task": {"a": 1}}, [b'{"a":1}']),
        ({"tasks": [], "task": {"a": 1}}, []),
        ({}, []),
    ],
)
def test_the_tasks_of_a_message_are_kept_as_they_came_and_apart_from_its_payload(
    payload: dict[str, Any], items: list[bytes]
) -> None:
    message = A2AMessage.decode(body(payload={"action": "submit_task", **payload}))

    assert [bytes(item) for item in message.tasks] == items
    assert message.payload == {"action": "submit_task"}


def test_a_message_with_tasks_comes_back_from_its_bytes() -> None:
    message = replace(MESSAGE, tasks=[Raw(b'{"a":1}'), Raw(b"2")])

    encoded = message.encode()

    assert orjson.loads(encoded)["payload"] == {**MESSAGE.payload, "tasks": [{"a": 1}, 2]}
    assert A2AMessage.decode(encoded) == message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (body(metadata={**FIELDS["metadata"], "version": "7" * 21}), f"version '{'7' * 20}'; this release speaks v1"),
        (body(payload=7), "payload: expected object, got int"),
        (body(payload={"tasks": 7}), "payload.tasks: expected array, got int"),
        (body(type="secret"), "type: not one of the allowed values"),
        (b"\xff", "no JSON: str is not valid UTF-8: surrogates not allowed: line 1 column 1 (char 0)"),
        (body()[:-1] + b',"type":"x"}', "no JSON: an object has the same name twice"),
        (body(payload={"deep": [{}]}).replace(b"{}", b'{"x":1,"x":1}'), "no JSON: an object has the same name twice"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_message_is_refused_with_the_reason(text: bytes, words: str) -> None:
    with pytest.raises(MalformedMessage) as refused:
        A2AMessage.decode(text)
    assert str(refused.value) == words


def test_a_body_may_be_written_otherwise_and_speak_a_later_minor_version() -> None:
    spaced = json.dumps({**FIELDS, "metadata": {**FIELDS["metadata"], "version": "v1.9"}}, indent=1).encode()
    assert A2AMessage.decode(spaced).payload == MESSAGE.payload


def test_a_message_has_up_to_its_limits_of_bytes_and_items() -> None:
    text = MESSAGE.encode()
    assert A2AMessage.decode(text, limit_bytes=len(text)) == MESSAGE
    with pytest.raises(MessageTooLarge, match=f"over the limit of {len(text) - 1} bytes"):
        A2AMessage.decode(text, limit_bytes=len(text) - 1)
    assert len(A2AMessage.decode(body(payload={"tasks": [1] * MAX_ITEMS})).tasks) == MAX_ITEMS
    with pytest.raises(MessageTooLarge, match=f"{MAX_ITEMS + 1} items in one message, where a sender puts {MAX_ITEMS}"):
        A2AMessage.decode(body(payload={"tasks": [1] * (MAX_ITEMS + 1)}))


def test_a_signed_message_is_opened_if_its_length_signature_and_body_are_right() -> None:
    keys = KeyRing.from_secret(SECRET, (COORDINATOR,))
    text = MESSAGE.encode()
    signed = KeyRing.from_secret(SECRET, (COORDINATOR, CLIENT)).sign(text, COORDINATOR)

    assert A2AMessage.opened(signed, keys, limit_bytes=len(text)) == MESSAGE
    with pytest.raises(MessageTooLarge):
        A2AMessage.opened(dataclasses.replace(signed, signature=b"0"), keys, limit_bytes=len(text) - 1)
    with pytest.raises(BadSignature):
        A2AMessage.opened(dataclasses.replace(signed, body=b"{"), keys)


def test_a_payload_that_is_no_json_says_why() -> None:
    with pytest.raises(BadTask, match="a message payload is not JSON: Type is not JSON serializable: set"):
        replace(MESSAGE, payload={"x": {1}}).encode()
