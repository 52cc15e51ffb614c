"""An engine for agents in one process."""

from __future__ import annotations

import asyncio
import uuid
from asyncio import Future
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from core.engine import state as states
from core.engine.agent_id import AgentId
from core.engine.cancellation import CancellationToken
from core.engine.channels import MessageChannel
from core.engine.delivery import Delivery
from core.engine.duplicates import Duplicates, response_of
from core.engine.envelopes import Envelope, PublishMessageEnvelope, ResponseMessageEnvelope, SendMessageEnvelope
from core.engine.exceptions import (
    AgentNotFound,
    EngineClosed,
    EngineStopped,
    MessageDroppedException,
    RequestTimeout,
)
from core.engine.handling import Handling, context_of
from core.engine.interventions import InterventionHandler, Interventions
from core.engine.mailbox import Call
from core.engine.registration import Registration
from core.engine.run import BackgroundErrors, Phase, Watchers
from core.engine.spans import Spans, TracerProvider
from core.engine.telling import DeadLetter, Telling
from core.engine.work import current_work
from core.events.bus import EventBus

__all__ = ["LocalAgentEngine"]

STOPPED = "the engine was stopped before it was handled"


class LocalAgentEngine(Registration):
    """Delivers messages to agents in this process, on the event loop that it is started on.

    An agent handles one message at a time, in the order in which they were sent; different agents work side by side.

    `intervention_handlers` see each message first. `tracer_provider`: OpenTelemetry's; spans are made for what listens.
    `ignore_unhandled_exceptions`: what a handler raises for a published message is logged and kept as a dead letter;
    if False it is also raised where the program waits (`stop`, `stop_when_idle`, `stop_when`, `close`,
    `process_next`). `bus` is told of every message. `mailbox_size`: so many messages wait at an agent before senders
    have to wait. `request_timeout_s`: the time limit of a request that names none. `deduplicate`: so many message ids
    are remembered; what comes again is not handled again, and a request gets the response of the first. `reentrant`: a
    request that would wait for itself is served out of turn, and not refused. `keep_dead_letters`: how many."""

    def __init__(
        self,
        *,
        intervention_handlers: Sequence[InterventionHandler] | None = None,
        tracer_provider: TracerProvider | None = None,
        ignore_unhandled_exceptions: bool = True,
        bus: EventBus | None = None,
        mailbox_size: int = 1000,
        request_timeout_s: float | None = None,
        deduplicate: int = 0,
        reentrant: bool = False,
        keep_dead_letters: int = 1000,
    ) -> None:
        if mailbox_size < 1 or deduplicate < 0 or keep_dead_letters < 0:
            raise ValueError("mailbox_size has to be 1 or more, deduplicate and keep_dead_letters 0 or more")
        self._telling = Telling(bus, keep_dead_letters)
        super().__init__(self._telling.not_built)
        self._interventions = Interventions(intervention_handlers or ())
        self._spans = Spans(tracer_provider)
        self._errors = BackgroundErrors()
        self._handling = Handling(
            self._instances, self._interventions, self._telling, self._spans, self._respond,
            None if ignore_unhandled_exceptions else self._errors,
        )  # fmt: skip
        self._delivery = Delivery(self._handle, self._ended, bound=mailbox_size, reentrant=reentrant)
        self._waiting: deque[Call | PublishMessageEnvelope | ResponseMessageEnvelope] = deque()
        self._duplicates = Duplicates(deduplicate) if deduplicate else None
        self._timeout_s = request_timeout_s
        self._phase = Phase.STANDING
        self._closed = False
        self._closed_agents: set[AgentId] = set()
        self._stops = 0  #: so often was it stopped: who waited for room meanwhile is dropped, whatever the phase is now
        self._arrivals, self._endings, self._idle = Watchers(), Watchers(), Watchers()
        self._name, self._numbers = uuid.uuid4().hex, count(1)

    # ---- messages ----

    async def send_message(
        self,
        message: Any,
        recipient: AgentId,
        *,
        sender: AgentId | None = None,
        cancellation_token: CancellationToken | None = None,
        message_id: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Any:
        """Sends a message to one agent and returns what it responds, or raises what its handler raises.

        Raises AgentNotFound at once if there is no such agent, RequestRing if the agent waits for the one who asks,
        RequestTimeout, EngineStopped if the engine is stopped before the message was begun, MessageDroppedException.
        When the sender is cancelled, or the token, a message that has not begun is not handled; a handler that runs is
        told by its token."""
        self._refuse_if_closed()
        envelope = SendMessageEnvelope(
            message=message,
            message_id=message_id or self._new_id(),
            sender=sender,
            recipient=recipient,
            future=asyncio.get_running_loop().create_future(),
            cancellation_token=cancellation_token or CancellationToken(),
            priority=priority,
        )
        if not self._instances.knows(recipient):
            error = AgentNotFound(recipient)
            self._telling.dropped(envelope, "there is no such agent", error=error)
            raise error
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        with self._spans.of_message("create", envelope, recipient):
            if limit_s is None:
                return await self._request(Call(envelope, self._delivery.mailbox(recipient), current_work()))
            return await self._request_within(envelope, limit_s)

    async def _request_within(self, envelope: SendMessageEnvelope, limit_s: float) -> Any:
        call = Call(envelope, self._delivery.mailbox(envelope.recipient), current_work())
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await self._request(call)
        except TimeoutError:
            if not limit.expired():
                raise  # the handler's own
            if call.task is not None:
                call.task.cancel()
            raise RequestTimeout(envelope.recipient, limit_s) from None

    async def _request(self, call: Call) -> Any:
        envelope, caller = call.envelope, call.caller
        assert isinstance(envelope, SendMessageEnvelope)
        if self._duplicates is not None and (first := self._duplicates.first_request(call)) is not None:
            self._telling.dropped(envelope, "it is a duplicate")
            return await response_of(first, caller, envelope.cancellation_token)
        try:
            if self._interventions:
                await self._intercept(envelope)
            self._telling.sent(envelope)
            envelope.cancellation_token.link_future(envelope.future)
            if caller is not None:
                caller.waits[call] = None
            await self._admit(call)
            return await envelope.future
        finally:
            if caller is not None:
                caller.waits.pop(call, None)
            if not call.began:
                self._withdraw(call)
            envelope.future.cancel()  # if it was not sent, whoever repeats it is not to wait for it

    async def _admit(self, call: Call) -> None:
        """Queues a request, as soon as there is room."""
        stopped = self._phase is Phase.STOPPING
        if self._phase is Phase.RUNNING:
            out_of_turn = self._delivery.is_ring(call)
            stops = self._stops
            if not out_of_turn and (call.mailbox.is_full or call.mailbox.waiting):
                await self._delivery.room_for([call])
                out_of_turn = self._stops == stops and self._delivery.is_ring(call)
            stopped = self._stops != stops
            if not stopped and self._phase is Phase.RUNNING:
                self._delivery.put(call, out_of_turn=out_of_turn)
                return
        if stopped:
            self._telling.dropped(call.envelope, STOPPED)
            raise EngineStopped(STOPPED)
        self._waiting.append(call)
        self._arrivals.wake()

    def _withdraw(self, call: Call) -> None:
        self._delivery.withdraw(call)
        if call in self._waiting:
            self._waiting.remove(call)

    async def publish_message(
        self,
        message: Any,
        message_channel: MessageChannel | None = None,
        *,
        topic_id: MessageChannel | None = None,
        sender: AgentId | None = None,
        cancellation_token: CancellationToken | None = None,
        message_id: str | None = None,
        ttl_s: float | None = None,
        priority: int = 0,
    ) -> None:
        """Sends a message to all agents that listen to the channel, except for the sender, and returns when it is
        queued at all of them. `topic_id` is another name of `message_channel`.

        `ttl_s`: an agent that has not begun to handle it within so many seconds does not get it. Raises what an
        intervention handler raises."""
        self._refuse_if_closed()
        channel = message_channel or topic_id
        if channel is None:
            raise TypeError("name the channel that the message is published to")
        envelope = PublishMessageEnvelope(
            message=message,
            message_id=message_id or self._new_id(),
            sender=sender,
            message_channel=channel,
            cancellation_token=cancellation_token or CancellationToken(),
            priority=priority,
            expires_at=None if ttl_s is None else asyncio.get_running_loop().time() + ttl_s,
        )
        if self._duplicates is not None and self._duplicates.was_published(envelope):
            self._telling.dropped(envelope, "it is a duplicate")
            return
        published = False
        try:
            with self._spans.of_message("create", envelope, channel):
                if self._interventions:
                    await self._intercept(envelope)
                self._telling.sent(envelope)
                published = await self._publish(envelope)
        except MessageDroppedException:
            return
        finally:
            if self._duplicates is not None and not published:
                self._duplicates.forget(envelope)

    async def _publish(self, envelope: PublishMessageEnvelope) -> bool:
        """Returns whether it is queued where it goes."""
        stopped = self._phase is Phase.STOPPING
        if self._phase is Phase.RUNNING:
            calls, stops = self._calls(envelope), self._stops
            if any(call.mailbox.is_full or call.mailbox.waiting for call in calls):
                await self._delivery.room_for(calls)
            stopped = self._stops != stops
            if not stopped and self._phase is Phase.RUNNING:
                for call in calls:
                    self._delivery.put(call)
                return True
        if stopped:
            self._telling.dropped(envelope, STOPPED)
            return False
        self._waiting.append(envelope)
        self._arrivals.wake()
        return True

    def _calls(self, envelope: PublishMessageEnvelope) -> list[Call]:
        """One for each agent that gets it."""
        listening = self._subscriptions.recipients(envelope.message_channel)
        if not listening:
            self._telling.dropped(envelope, "nobody listens to the channel")
        calls = []
        for agent_id in listening:
            if agent_id == envelope.sender:
                continue
            if self._instances.knows(agent_id):
                calls.append(Call(envelope, self._delivery.mailbox(agent_id), None))
            else:
                self._telling.dropped(envelope, "there is no such agent", receiver=agent_id)
        return calls

    async def _intercept(self, envelope: Envelope) -> None:
        """Leaves in the envelope what the intervention handlers have made of the message. Raises what they raise."""
        try:
            if isinstance(envelope, SendMessageEnvelope):
                context = context_of(envelope)
                envelope.message = await self._interventions.on_send(envelope.message, context, envelope.recipient)
            else:
                envelope.message = await self._interventions.on_publish(envelope.message, context_of(envelope))
        except Exception as error:
            self._telling.dropped(envelope, "an intervention handler has dropped or refused it", error=error)
            raise
        self._refuse_if_closed()  # meanwhile

    async def _handle(self, call: Call) -> None:
        """In a task of its own."""
        try:
            await self._handling.handle(call)
        finally:
            self._delivery.end(call)

    def _respond(self, response: ResponseMessageEnvelope) -> None:
        """A handler has returned this."""
        if self._phase is Phase.STANDING:  # `process_next` delivers it
            self._waiting.append(response)
            self._arrivals.wake()
        else:
            self._handling.deliver_response(response)

    # ---- running ----

    @property
    def unprocessed_messages_count(self) -> int:
        """How many are queued: sent or published, and not begun."""
        return len(self._waiting) + self._delivery.queued

    @property
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """The last messages that reached nobody, or whose handlers have failed with nobody waiting."""
        return tuple(self._telling.dead_letters)

    def start(self) -> None:
        """Delivers messages from now on, those first that wait already. Raises RuntimeError if it is started."""
        self._refuse_if_closed()
        if self._phase is Phase.RUNNING:
            raise RuntimeError("the engine is started already")
        self._use_surroundings()
        self._phase = Phase.RUNNING
        while self._waiting:
            self._dispatch(self._waiting.popleft())
        self._arrivals.wake()

    async def process_next(self) -> None:
        """Begins to deliver the next message, or response, of an engine that is not started; waits for one if there is
        none. Raises what handlers have raised with nobody waiting, unless that is ignored."""
        self._errors.surface()
        while not self._waiting and self._phase is Phase.STANDING:
            self._refuse_if_closed()
            await self._arrivals.wait()
            self._errors.surface()
        if self._waiting:
            self._use_surroundings()
            self._dispatch(self._waiting.popleft())
        await asyncio.sleep(0)  # so that its handler begins

    def _use_surroundings(self) -> None:
        """Handlers run in the context of whoever has the engine deliver."""
        asyncio.get_running_loop()
        self._delivery.use_context()
        self._spans.look()

    def _dispatch(self, item: Call | PublishMessageEnvelope | ResponseMessageEnvelope) -> None:
        """Delivers what has waited for the engine, whether or not there is room."""
        if isinstance(item, PublishMessageEnvelope):
            for call in self._calls(item):
                self._delivery.put(call)
        elif isinstance(item, ResponseMessageEnvelope):
            self._handling.deliver_response(item)
        else:
            try:
                self._delivery.put(item, out_of_turn=self._delivery.is_ring(item))
            except Exception as error:
                assert isinstance(item.envelope, SendMessageEnvelope)
                item.envelope.future.set_exception(error)

    async def stop(self) -> None:
        """Begins no further message, and returns when the handlers that run have ended; in a handler, at once. What is
        queued is dropped: requests raise EngineStopped, the rest are dead letters. Raises RuntimeError if it is not
        started."""
        self._refuse_unless_started()
        await self._stop()

    async def _stop(self) -> None:
        self._begin_to_stop()
        if current_work() is None:
            running = [call.task for call in self._delivery.running if call.task is not None]
            if running:
                await asyncio.wait(running)
            self._errors.surface()

    def _begin_to_stop(self) -> None:
        self._stops += 1
        self._phase = Phase.STOPPING if self._delivery.running else Phase.STANDING
        self._drop([*self._delivery.drop_queued(), *self._waiting])
        self._waiting.clear()
        self._wake()

    def _drop(self, items: Sequence[Call | PublishMessageEnvelope | ResponseMessageEnvelope]) -> None:
        for item in items:
            if isinstance(item, ResponseMessageEnvelope):
                self._handling.deliver_response(item)
                continue
            envelope = item if isinstance(item, PublishMessageEnvelope) else item.envelope
            self._telling.dropped(envelope, STOPPED, receiver=item.agent_id if isinstance(item, Call) else None)
            if isinstance(envelope, SendMessageEnvelope) and not envelope.future.done():
                envelope.future.set_exception(EngineStopped(STOPPED))

    async def stop_when_idle(self) -> None:
        """Returns when nothing is queued and no handler runs; the engine is stopped then. Raises RuntimeError if it is
        not started, or in a handler, which would wait for itself."""
        self._refuse_unless_started()
        if current_work() is not None:
            raise RuntimeError("a handler that waits until all handlers have ended waits for itself: use stop()")
        while self._phase is not Phase.STANDING and not self._delivery.is_idle:
            await self._idle.wait()
        if self._phase is Phase.RUNNING:
            self._phase = Phase.STANDING
            self._wake()
        self._errors.surface()

    async def stop_when(self, condition: Callable[[], bool], check_period: float = 1.0) -> None:
        """Stops when the condition holds, or a handler has failed and that is not ignored. The condition is looked at
        whenever a handler has ended, and every `check_period` seconds. What it raises is raised, and the engine goes
        on."""
        self._refuse_unless_started()
        while self._phase is Phase.RUNNING and not self._errors and not condition():
            await self._endings.wait(check_period)
        if self._phase is Phase.RUNNING:
            await self.stop()
        self._errors.surface()

    async def close(self) -> None:
        """Stops, and closes all agents. It takes nothing any more. Raises what agents raise when they are closed, after
        all have been. Closes no agent twice."""
        self._closed = True
        errors: list[Exception] = []
        try:
            await self._stop()
        except Exception as error:
            errors.append(error)
        for agent_id, agent in list(self._instances.there.items()):
            if agent_id in self._closed_agents:
                continue
            self._closed_agents.add(agent_id)
            try:
                await agent.close()
            except Exception as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("agents could not be closed", errors)

    def _ended(self) -> None:
        """A handler has ended, or a message was withdrawn."""
        if self._phase is Phase.STOPPING and not self._delivery.running:
            self._phase = Phase.STANDING
        self._endings.wake()
        if self._idle and self._delivery.is_idle:
            self._idle.wake()

    def _wake(self) -> None:
        for watchers in (self._arrivals, self._endings, self._idle):
            watchers.wake()

    # ---- state ----

    async def save_state(self) -> Mapping[str, Any]:
        """The state of all agents by their ids, and what is queued. Meanwhile no further message is begun. Raises
        MessageNotSerializable, which names the type of a queued message that nothing can save."""
        self._delivery.hold()
        try:
            waiting = (item for item in self._waiting if not isinstance(item, ResponseMessageEnvelope))
            queued = states.saved_messages([*self._delivery.calls(), *waiting], self._registry)
            saved = await states.agent_states(self._instances)
        finally:
            self._delivery.release()
        return {**saved, states.QUEUED: queued} if queued else saved

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes on a state that `save_state` has returned. An agent that is not there yet gets its own when built.

        Raises AgentNotFound or MessageNotSerializable for what this engine does not know; nothing is loaded then."""
        of_agents = states.states_to_load(state, self._instances)
        messages = states.loaded_messages(state, self._instances, self._registry)
        for agent_id, of_agent in of_agents.items():
            agent = self._instances.there.get(agent_id)
            if agent is None:
                self._instances.stored[agent_id] = of_agent
            else:
                await agent.load_state(of_agent)
        for envelope, recipient in messages:
            self._take_over(envelope, recipient)

    def _take_over(self, envelope: Envelope, recipient: AgentId | None) -> None:
        """Queues a message that was loaded. Nobody waits for its response."""
        item = envelope if recipient is None else Call(envelope, self._delivery.mailbox(recipient), None)
        if isinstance(envelope, SendMessageEnvelope):
            envelope.future.add_done_callback(lambda future: self._nobody_waited(envelope, future))
        assert not isinstance(item, SendMessageEnvelope)
        if self._phase is Phase.RUNNING:
            self._dispatch(item)
        else:
            self._waiting.append(item)
            self._arrivals.wake()

    def _nobody_waited(self, envelope: SendMessageEnvelope, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, Exception) and not isinstance(error, EngineStopped):  # a stop has told it already
            self._handling.unawaited(envelope, envelope.recipient, error)

    # ---- of all ----

    def _new_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EngineClosed("the engine was closed")

    def _refuse_unless_started(self) -> None:
        if self._phase is not Phase.RUNNING:
            raise RuntimeError("the engine is not started")
