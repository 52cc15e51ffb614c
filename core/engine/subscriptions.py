"""Who wants what is published to a channel."""

from __future__ import annotations

from core.engine.agent_id import AgentId
from core.engine.channels import MessageChannel, Subscription

__all__ = ["SubscriptionManager"]

#: So many channels have their recipients remembered. A program may have a channel for each of its conversations.
MAX_REMEMBERED = 1024


class SubscriptionManager:
    """The subscriptions of an engine, in the order in which they were made."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._recipients: dict[MessageChannel, tuple[AgentId, ...]] = {}

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(self._subscriptions)

    def subscribe(self, subscription: Subscription) -> None:
        """Raises ValueError when there is one that means the same."""
        if subscription in self._subscriptions:
            raise ValueError(f"there is such a subscription already: {subscription.id}")
        self._subscriptions.append(subscription)
        self._recipients.clear()

    def unsubscribe(self, id: str) -> None:
        """Raises ValueError when there is none of this id."""
        kept = [subscription for subscription in self._subscriptions if subscription.id != id]
        if len(kept) == len(self._subscriptions):
            raise ValueError(f"there is no subscription {id!r}")
        self._subscriptions = kept
        self._recipients.clear()

    def recipients(self, channel: MessageChannel) -> tuple[AgentId, ...]:
        """Whom a message of this channel goes to, each once, in the order of the subscriptions."""
        found = self._recipients.get(channel)
        if found is None:
            found = tuple(
                dict.fromkeys(one.map_to_agent(channel) for one in self._subscriptions if one.is_match(channel))
            )
            if len(self._recipients) >= MAX_REMEMBERED:
                self._recipients.clear()
            self._recipients[channel] = found
        return found
