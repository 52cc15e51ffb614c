"""Somebody who says things to an agent, rightly or wrongly, and reads what lies in streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from core.a2a_messaging import A2AMessage
from core.roles import Action, Address
from core.signing import KeyRing, Signed
from tests.builders import SECRET, a_message, a_task

__all__ = ["Redis", "Speaker", "overheard"]

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands


@dataclass
class Speaker:
    """Says things to an agent, rightly or wrongly: straight into its stream, without an agent of its own."""

    client: Redis
    chain: tuple[Address, ...]  #: who speaks
    recipient: Address
    inbox: str
    number: int = 0
    incarnation: int = 1

    async def signed(self, action: str, *, body: bytes | None = None, secret: bytes = SECRET, **fields: Any) -> Signed:
        """The next message, signed now; `fields` are those of its payload and metadata, `body` replaces all of it."""
        seconds, micros = await self.client.time()
        self.number += 1
        metadata = {"timestamp": seconds * 1000 + micros // 1000, "incarnation": self.incarnation}
        number = fields.pop("number", self.number)
        message = a_message(self.chain[-1], self.recipient, action, number=number, **{**metadata, **fields})
        return KeyRing.from_secret(secret, self.chain).sign(body or message.encode(), self.recipient)

    async def post(self, signed: Signed) -> bytes:
        fields = signed.fields()
        return bytes(await self.client.xadd(self.inbox, dict(zip(fields[::2], fields[1::2], strict=True))))

    async def say(self, action: str, **fields: Any) -> bytes:
        return await self.post(await self.signed(action, **fields))

    async def submit(self, task_id: str, **fields: Any) -> bytes:
        return await self.say(Action.SUBMIT_TASK, tasks=[orjson.loads(a_task(task_id).to_json())], **fields)


async def overheard(client: Redis, stream: str, reader: tuple[Address, ...]) -> list[tuple[Signed, A2AMessage]]:
    """All that lies in a stream, verified as its reader would."""
    keys = KeyRing.from_secret(SECRET, reader)
    found = []
    for _, fields in await client.xrange(stream):
        signed = Signed.from_fields([part for pair in fields.items() for part in pair])
        keys.verify(signed)
        found.append((signed, A2AMessage.decode(signed.body)))
    return found
