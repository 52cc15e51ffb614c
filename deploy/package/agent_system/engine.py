"""Agents in one process, for programs: `from agent_system.engine import LocalAgentEngine, RoutedAgent`.
Each name is loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `agent_system`
if TYPE_CHECKING:
    from core.engine import (
        JSON_DATA_CONTENT_TYPE,
        Agent,
        AgentEngine,
        AgentId,
        AgentInstantiationContext,
        AgentMetadata,
        AgentNotFound,
        AgentType,
        BaseAgent,
        CancellationToken,
        CantHandleException,
        DeadLetter,
        DefaultInterventionHandler,
        DefaultSubscription,
        DefaultTopicId,
        DropMessage,
        EngineClosed,
        EngineStopped,
        InterventionHandler,
        LocalAgentEngine,
        MessageChannel,
        MessageContext,
        MessageDroppedException,
        MessageHandlerContext,
        MessageKind,
        MessageNotSerializable,
        MessageSerializer,
        NotAccessibleError,
        PublishMessageEnvelope,
        RequestRing,
        RequestTimeout,
        ResponseMessageEnvelope,
        RoutedAgent,
        SendMessageEnvelope,
        SerializationRegistry,
        Subscription,
        SubscriptionInstantiationContext,
        SubscriptionManager,
        TopicId,
        TypePrefixSubscription,
        TypeSubscription,
        UndeliverableException,
        UnknownPayload,
        default_subscription,
        event,
        handles,
        message_handler,
        rpc,
        subscription_factory,
        try_get_known_serializers_for_type,
        type_subscription,
    )
else:

    def __getattr__(name):
        return getattr(import_module(".core.engine", __package__), name)


__all__ = [
    "JSON_DATA_CONTENT_TYPE", "Agent", "AgentEngine", "AgentId", "AgentInstantiationContext", "AgentMetadata",
    "AgentNotFound", "AgentType", "BaseAgent", "CancellationToken", "CantHandleException", "DeadLetter",
    "DefaultInterventionHandler", "DefaultSubscription", "DefaultTopicId", "DropMessage", "EngineClosed",
    "EngineStopped", "InterventionHandler", "LocalAgentEngine", "MessageChannel", "MessageContext",
    "MessageDroppedException", "MessageHandlerContext", "MessageKind", "MessageNotSerializable", "MessageSerializer",
    "NotAccessibleError", "PublishMessageEnvelope", "RequestRing", "RequestTimeout", "ResponseMessageEnvelope",
    "RoutedAgent", "SendMessageEnvelope", "SerializationRegistry", "Subscription", "SubscriptionInstantiationContext",
    "SubscriptionManager", "TopicId", "TypePrefixSubscription", "TypeSubscription", "UndeliverableException",
    "UnknownPayload", "default_subscription", "event", "handles", "message_handler", "rpc", "subscription_factory",
    "try_get_known_serializers_for_type", "type_subscription",
]  # fmt: skip
