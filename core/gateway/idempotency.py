"""Requests that may be made again: the same key with the same body has the same answer, at every gateway.

The ids of what a request makes follow from its key, so one that is made again before its answer was kept does nothing
twice. The answer is kept for a day, longer than the records of tasks usually are.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Header, Request

from core.gateway.access import caller_of
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem

__all__ = ["IdempotencyKey", "RepeatableRequest"]

KEPT_MS = 24 * 60 * 60 * 1000
FINGERPRINT_BYTES = 32

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$",
        description="A request with the same key and body has the same answer, for a day. With another body: 409.",
    ),
]  # fmt: skip


class RepeatableRequest:
    """One request that was given a key, or none."""

    def __init__(self, request: Request, key: str | None) -> None:
        self._hierarchy: Hierarchy = request.app.state.hierarchy
        self._request = request
        self.was_begun = False  #: whether it was made before, and may have been carried out
        self._seed = f"{caller_of(request).full_name}\0{request.url.path}\0{key}" if key else ""

    def new_id(self, prefix: str, number: int = 0) -> str | None:
        """The id of the next thing that the request makes; None: any will do."""
        if not self._seed:
            return None
        seed = f"{self._seed}\0{number}"
        return f"{prefix}-{hashlib.sha256(seed.encode()).hexdigest()[:20]}"

    async def earlier_answer(self) -> bytes | None:
        """What was answered to this request before; None: it is new, or was not answered. Raises Problem: the key was
        used for another one."""
        if not self._seed:
            return None
        fingerprint = hashlib.sha256(await self._request.body()).digest()
        [kept] = await self._hierarchy.run(("SET", self._key, fingerprint, "NX", "GET", "PX", KEPT_MS))
        if kept is not None and kept[:FINGERPRINT_BYTES] != fingerprint:
            raise Problem(409, "this Idempotency-Key was used for another request; make a new one for each request")
        self.was_begun = kept is not None
        return kept[FINGERPRINT_BYTES:] or None if kept else None

    async def keep(self, answer: bytes) -> None:
        """Keeps the answer for those who ask again."""
        if self._seed:
            fingerprint = hashlib.sha256(await self._request.body()).digest()
            await self._hierarchy.run(("SET", self._key, fingerprint + answer, "PX", KEPT_MS))

    @property
    def _key(self) -> str:
        return self._hierarchy.gateway_keys.request(hashlib.sha256(self._seed.encode()).hexdigest())
