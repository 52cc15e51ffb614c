"""Agents in one process: `LocalAgentEngine`, and all that programs for it import."""

from core.engine.agent import (
    Agent,
    BaseAgent,
    default_subscription,
    handles,
    subscription_factory,
    type_subscription,
)
from core.engine.agent_engine import AgentEngine
from core.engine.agent_id import AgentId, AgentMetadata, AgentType
from core.engine.cancellation import CancellationToken
from core.engine.channels import (
    DefaultSubscription,
    DefaultTopicId,
    MessageChannel,
    Subscription,
    TopicId,
    TypePrefixSubscription,
    TypeSubscription,
)
from core.engine.contexts import (
    AgentInstantiationContext,
    MessageContext,
    MessageHandlerContext,
    SubscriptionInstantiationContext,
)
from core.engine.engine import LocalAgentEngine
from core.engine.envelopes import (
    MessageKind,
    PublishMessageEnvelope,
    ResponseMessageEnvelope,
    SendMessageEnvelope,
)
from core.engine.exceptions import (
    AgentNotFound,
    CantHandleException,
    EngineClosed,
    EngineStopped,
    MessageDroppedException,
    MessageNotSerializable,
    NotAccessibleError,
    RequestRing,
    RequestTimeout,
    UndeliverableException,
)
from core.engine.interventions import DefaultInterventionHandler, DropMessage, InterventionHandler
from core.engine.routed_agent import RoutedAgent, event, message_handler, rpc
from core.engine.serialization import (
    JSON_DATA_CONTENT_TYPE,
    MessageSerializer,
    SerializationRegistry,
    UnknownPayload,
    try_get_known_serializers_for_type,
)
from core.engine.subscriptions import SubscriptionManager
from core.engine.telling import DeadLetter

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
