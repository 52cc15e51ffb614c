"""What becomes of one message at one agent: its handler runs, and its response goes to whoever waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from core.engine.agent_id import AgentId
from core.engine.contexts import MessageContext, MessageHandlerContext
from core.engine.envelopes import Envelope, PublishMessageEnvelope, ResponseMessageEnvelope, SendMessageEnvelope
from core.engine.instances import Instances
from core.engine.interventions import Interventions
from core.engine.mailbox import Call
from core.engine.run import BackgroundErrors
from core.engine.spans import Spans
from core.engine.telling import Telling
from core.engine.work import enter

__all__ = ["Handling", "context_of"]

log = logging.getLogger(__name__)


class Handling:
    """Handles calls. `respond` is given what a handler has returned. `errors` gets what handlers raise with nobody
    waiting; None: that is logged only."""

    def __init__(
        self,
        instances: Instances,
        interventions: Interventions,
        telling: Telling,
        spans: Spans,
        respond: Callable[[ResponseMessageEnvelope], None],
        errors: BackgroundErrors | None,
    ) -> None:
        self._instances, self._interventions = instances, interventions
        self._telling, self._spans = telling, spans
        self._respond, self._errors = respond, errors

    async def handle(self, call: Call) -> None:
        """In a task of its own. What the handler raises goes to whoever waits; only what ends the task is raised."""
        enter(call)
        MessageHandlerContext.enter(call.agent_id)
        envelope = call.envelope
        if self._is_void(call):
            return
        try:
            if isinstance(envelope, SendMessageEnvelope):
                with self._spans.of_message("send", envelope, call.agent_id):
                    self._respond(await self._responded(call, envelope))
            else:
                with self._spans.of_message("publish", envelope, call.agent_id):
                    await self._returned(call)
        except asyncio.CancelledError:
            if isinstance(envelope, PublishMessageEnvelope):
                self._telling.dropped(envelope, "its handler was cancelled", receiver=call.agent_id)
            raise
        except Exception as error:
            self._failed(call, error)

    async def _responded(self, call: Call, envelope: SendMessageEnvelope) -> ResponseMessageEnvelope:
        response = await self._returned(call)
        if self._interventions:
            response = await self._interventions.on_response(response, call.agent_id, envelope.sender)
        return ResponseMessageEnvelope(
            message=response, message_id=envelope.message_id, sender=call.agent_id, recipient=envelope.sender,
            future=envelope.future, metadata=envelope.metadata,
        )  # fmt: skip

    async def _returned(self, call: Call) -> Any:
        envelope = call.envelope
        agent = self._instances.there.get(call.agent_id) or await self._instances.instance(call.agent_id)
        self._telling.delivered(envelope, call.agent_id)
        with self._spans.of_message("process", envelope, call.agent_id):
            return await agent.on_message(envelope.message, context_of(envelope))

    def _is_void(self, call: Call) -> bool:
        """Whether nobody wants it any more."""
        envelope = call.envelope
        if isinstance(envelope, SendMessageEnvelope):
            return envelope.future.done()
        if envelope.cancellation_token.is_cancelled():
            self._telling.dropped(envelope, "it was cancelled", receiver=call.agent_id)
            return True
        if envelope.expires_at is not None and asyncio.get_running_loop().time() >= envelope.expires_at:
            self._telling.dropped(envelope, "it has expired", receiver=call.agent_id)
            return True
        return False

    def deliver_response(self, response: ResponseMessageEnvelope) -> None:
        """Gives it to whoever waits for it, if anybody does still."""
        if not response.future.done():
            with self._spans.of_message("ack", response, response.recipient):
                response.future.set_result(response.message)
                self._telling.responded(response)

    def _failed(self, call: Call, error: Exception) -> None:
        envelope = call.envelope
        self._telling.failed(envelope, call.agent_id, error)
        if isinstance(envelope, SendMessageEnvelope) and not envelope.future.done():
            envelope.future.set_exception(error)
        else:
            self.unawaited(envelope, call.agent_id, error)

    def unawaited(self, envelope: Envelope, agent_id: AgentId, error: Exception) -> None:
        """A handler has failed, with nobody waiting for its response."""
        self._telling.dropped(envelope, "its handler has failed", receiver=agent_id, error=error)
        log.error(
            "the handler of %s for %s has failed", agent_id, type(envelope.message).__name__,
            exc_info=error, extra={"action": "handler_failed", "agent": str(agent_id)},
        )  # fmt: skip
        if self._errors is not None:
            self._errors.add(error)


def context_of(envelope: Envelope) -> MessageContext:
    """What a handler is told of a message."""
    is_rpc = isinstance(envelope, SendMessageEnvelope)
    return MessageContext(
        sender=envelope.sender,
        message_channel=None if isinstance(envelope, SendMessageEnvelope) else envelope.message_channel,
        is_rpc=is_rpc,
        cancellation_token=envelope.cancellation_token,
        message_id=envelope.message_id,
    )
