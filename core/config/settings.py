"""The settings, as frozen values that are validated when they are made.

`RedisConfig(host="localhost")` can be written in a program; `sources.load` makes the same values from flags, the
environment and a `.env` file. Each field names its environment variable and what that takes, once, in a `Variable`;
reading, error messages and the list of known variables all come from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from core.config.endpoint import Endpoint, endpoint_of_url
from core.config.variables import BadSetting, Secret, Value, Variable, secret_text
from core.errors import ConfigError
from core.event_types import EventLevel
from core.roles import AGENT_ID
from core.webhooks import allowed_hosts

__all__ = [
    "A2AConfig",
    "A2ASecrets",
    "AgentConfig",
    "GatewayConfig",
    "RedisConfig",
    "Setting",
    "Settings",
    "with_client_certificate",
]

#: What `.env.example` has for A2A_TOKEN_SECRET. It is public, so it counts as "not set".
PLACEHOLDER_SECRET = "your-secret-token"
MIN_SECRET_CHARACTERS = 16
NEW_SECRET = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


def _agent_id(text: str) -> str:
    if not AGENT_ID.fullmatch(text):
        raise ValueError("this is no agent id")
    return text


def _root_secret(value: SecretStr | str | None) -> SecretStr | None:
    text = secret_text(value)
    if text is None or text == PLACEHOLDER_SECRET:
        return None
    if len(text) < MIN_SECRET_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, fewer than {MIN_SECRET_CHARACTERS}")
    return SecretStr(text)


def _client_id(text: str) -> str:
    """A client's name, or `operator:` followed by an operator's name."""
    _agent_id(text.removeprefix("operator:"))
    return text


def _gateway_url(text: str) -> str:
    url = urlsplit(text)
    if text and (url.scheme not in {"http", "https"} or not url.hostname or url.username or url.query or url.fragment):
        raise ValueError("this is no address of a gateway")
    return text


def _listed(text: object) -> object:
    return tuple(filter(None, map(str.strip, text.split(",")))) if isinstance(text, str) else text


Tag = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
AgentId = Annotated[str, AfterValidator(_agent_id)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]
_AN_ID = "1 to 64 letters, digits, '_', '.', '-', the first a letter or digit"
_ROOT = f"at least {MIN_SECRET_CHARACTERS} characters; {NEW_SECRET} prints a good one"


class RedisConfig(Value):
    """How to reach Redis or Valkey. What `url` contains takes precedence over the single parts.

    Raises ConfigError when a value is malformed, or two values contradict each other.
    """

    host: Annotated[str, Field(min_length=1), Variable("REDIS_HOST", "a host name or address")] = "localhost"
    port: Annotated[int, Field(ge=1, le=65_535), Variable("REDIS_PORT", "a port, 1 to 65535")] = 6379
    db: Annotated[int, Field(ge=0, le=65_535), Variable("REDIS_DB", "the number of a database, 0 or more")] = 0
    username: Annotated[str | None, Variable("REDIS_USERNAME", "the name of an ACL user")] = None
    password: Annotated[Secret, Variable("REDIS_PASSWORD", "the server's password", secret=True)] = None
    use_tls: Annotated[bool, Variable("REDIS_USE_TLS", "true or false")] = False
    ca_path: Annotated[Path | None, Variable("REDIS_CA_PATH", "a PEM file with the CA of the server")] = None
    cert_path: Path | None = None  #: the client's certificate, if the server asks for one
    key_path: Path | None = None  #: the private key of `cert_path`
    url: Annotated[
        Secret,
        Variable("REDIS_URL", "redis://, rediss:// or unix://, as in redis://user:password@host:6379/0", secret=True),
    ] = None
    mode: Annotated[
        Literal["auto", "external", "embedded"],
        Variable("REDIS_MODE", "auto (embedded if nothing answers on this machine), external or embedded"),
    ] = "auto"
    #: Number of replicas that must have a value before a client trusts it, so that a failover cannot undo it.
    wait_replicas: Annotated[
        int, Field(ge=0, le=1000), Variable("REDIS_WAIT_REPLICAS", "how many replicas, 0 or more")
    ] = 0
    #: None: data_dir()
    data_dir: Annotated[Path | None, Variable("AGENT_DATA_DIR", "a directory of your own, writable by nobody else")] = (
        None
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        endpoint = self.endpoint
        if (self.cert_path is None) != (self.key_path is None):
            raise ConfigError("RedisConfig: cert_path and key_path belong together: give both or neither.")
        for name, path in (("REDIS_CA_PATH", self.ca_path), ("cert_path", self.cert_path), ("key_path", self.key_path)):
            if path is not None and not path.is_file():
                raise BadSetting(name, f"there is no file {str(path)!r}. Set it to the path of a PEM file.")
        if self.cert_path is not None and not endpoint.use_tls:
            raise ConfigError("RedisConfig: a client certificate needs TLS: set REDIS_USE_TLS=true (or rediss://).")
        return self

    @property
    def endpoint(self) -> Endpoint:
        password = secret_text(self.password)
        parts = Endpoint(
            host=self.host,
            port=self.port,
            socket_path=None,
            db=self.db,
            username=self.username or None,
            password=SecretStr(password) if password else None,
            use_tls=self.use_tls,
        )
        url = secret_text(self.url)
        return endpoint_of_url(url, parts) if url else parts


class A2ASecrets(Value):
    """The secrets of the signed messages, and the client certificate of the connection that carries them."""

    token_secret: Annotated[Secret, AfterValidator(_root_secret), Variable("A2A_TOKEN_SECRET", _ROOT, secret=True)] = (
        None  #: the root of all keys; None: that in this machine's data directory
    )
    previous_secret: Annotated[
        Secret, AfterValidator(_root_secret), Variable("A2A_PREVIOUS_SECRET", _ROOT, secret=True)
    ] = None  #: also accepted during a rotation; it is the previous secret, or the next one
    agent_key: Annotated[
        Secret, Variable("A2A_AGENT_KEY", "an agent's own key, as `agents key` prints it", secret=True)
    ] = None  #: instead of the root secret: an agent's own key, with which it can only be itself
    use_mtls: Annotated[bool, Variable("A2A_USE_MTLS", "true or false")] = False
    cert_path: Annotated[Path | None, Variable("A2A_CERT_PATH", "a PEM file with the client's certificate")] = None
    key_path: Annotated[Path | None, Variable("A2A_KEY_PATH", "a PEM file with the client's private key")] = None

    @model_validator(mode="after")
    def _certificate_exists(self) -> Self:
        pair = (("A2A_CERT_PATH", self.cert_path), ("A2A_KEY_PATH", self.key_path))
        for name, path in pair if self.use_mtls else ():
            if path is None:
                raise BadSetting(name, "A2A_USE_MTLS=true needs it. Set it to a PEM file, or A2A_USE_MTLS=false.")
            if not path.is_file():
                raise BadSetting(name, f"there is no file {str(path)!r}. Set it to a PEM file, or A2A_USE_MTLS=false.")
        return self


class A2AConfig(A2ASecrets):
    """An agent's id, and its secrets. `A2AConfig(agent_id="coordinator-1")` is enough on one machine."""

    agent_id: AgentId


def with_client_certificate(redis: RedisConfig, a2a: A2ASecrets) -> RedisConfig:
    """`redis`, with the client certificate of `a2a` if that requires mutual TLS.

    Messages travel through Redis, so it is the connection to Redis that can be mutual. Raises ConfigError when that
    connection has no TLS.
    """
    if not a2a.use_mtls:
        return redis
    if not redis.endpoint.use_tls:
        raise BadSetting(
            "A2A_USE_MTLS", "the connection to Redis has no TLS. Set REDIS_USE_TLS=true, or use rediss://."
        )
    return redis.model_copy(update={"cert_path": a2a.cert_path, "key_path": a2a.key_path})


class AgentConfig(Value):
    """Timings and limits of an agent. Raises ConfigError when they cannot work together."""

    #: interval between heartbeats; each costs one command
    heartbeat_s: Annotated[Seconds, Variable("AGENT_HEARTBEAT_S", "seconds between two signs of life")] = 1.0
    #: after this much silence an agent counts as gone, and its tasks go to others
    failure_timeout_s: Annotated[Seconds, Variable("AGENT_FAILURE_TIMEOUT_S", "seconds of silence")] = 5.0
    #: how long the id of a crashed agent stays taken
    lease_s: Annotated[Seconds, Variable("AGENT_LEASE_S", "seconds a lease lasts without renewal")] = 10.0
    #: if another process acts for the same id, wait for its place instead of ending
    standby: Annotated[bool, Variable("AGENT_STANDBY", "true or false")] = False
    #: on SIGTERM, how long running tasks may take to end before they are handed back
    drain_timeout_s: Annotated[float, Field(ge=0), Variable("DRAIN_TIMEOUT", "seconds, 0 or more")] = 25.0
    #: how long an ended task and its result can be asked for
    retention_s: Annotated[int, Field(ge=1), Variable("TASK_RETENTION_S", "whole seconds, 1 or more")] = 3600
    #: how long a task that failed for good is kept as a dead letter
    dead_letter_retention_s: Annotated[int, Field(ge=1), Variable("DEAD_LETTER_RETENTION_S", "whole seconds")] = (
        7 * 86_400
    )
    #: how far the signing time of a message and its time of arrival may differ
    freshness_s: Annotated[Seconds, Variable("A2A_FRESHNESS_S", "seconds")] = 600.0
    #: further tasks are refused, so that the server's memory is not exhausted
    max_open_tasks: Annotated[int, Field(ge=1), Variable("MAX_OPEN_TASKS", "a number of tasks, 1 or more")] = 200_000
    #: number of open tasks below a submitted one, and their depth, so that endless spawning is stopped
    max_tree_tasks: Annotated[int, Field(ge=1), Variable("MAX_TREE_TASKS", "a number of tasks, 1 or more")] = 10_000
    max_tree_depth: Annotated[
        int, Field(ge=1, le=1000), Variable("MAX_TREE_DEPTH", "levels of children, 1 to 1000")
    ] = 32
    #: share of the server's maxmemory above which new tasks are refused, so that the accepted ones can always finish
    memory_high_water: Annotated[
        float, Field(gt=0, le=1), Variable("MEMORY_HIGH_WATER", "a share of the server's maxmemory, such as 0.8")
    ] = 0.8
    #: how much the agents write to the event stream of their hierarchy
    events: Annotated[EventLevel, Variable("AGENT_EVENTS", f"one of {', '.join(EventLevel)}")] = EventLevel.TASKS
    #: where an agent answers probes; None: nowhere
    health_port: Annotated[int | None, Field(ge=1, le=65_535), Variable("AGENT_HEALTH_PORT", "a port, 1 to 65535")] = (
        None
    )
    health_host: Annotated[
        str, Field(min_length=1), Variable("AGENT_HEALTH_HOST", "an address of this machine, 0.0.0.0 for all")
    ] = "127.0.0.1"
    #: words by which operators find agents in the registry, such as region=eu
    tags: Annotated[
        tuple[Tag, ...], BeforeValidator(_listed), Variable("AGENT_TAGS", "words without spaces, separated by commas")
    ] = ()
    #: number of tasks that one worker runs at the same time
    concurrency: Annotated[
        int, Field(ge=1, le=10_000), Variable("WORKER_CONCURRENCY", "a number of tasks, 1 to 10000")
    ] = 4
    #: number of LangGraph graphs that one worker runs at the same time, besides that
    agent_concurrency: Annotated[
        int, Field(ge=1, le=10_000), Variable("AGENT_CONCURRENCY", "a number of runs, 1 to 10000")
    ] = 100
    #: where the agent is, for the strategy geographic; empty: not said
    region: Annotated[str, Field(max_length=64), Variable("AGENT_REGION", "the name of a region")] = ""
    #: its share by the strategy weighted_round_robin; 0: how much it does at once
    weight: Annotated[int, Field(ge=0, le=10_000), Variable("AGENT_WEIGHT", "a number, 0 to 10000")] = 0
    #: number of processes that these graphs share; None: as many as there are processors
    hosts: Annotated[int | None, Field(ge=1, le=256), Variable("WORKER_HOSTS", "a number of processes, 1 to 256")] = (
        None
    )
    #: what an attempt in a child process, or all graphs that share one, may allocate
    child_memory_mb: Annotated[int, Field(ge=1), Variable("WORKER_CHILD_MEMORY_MB", "MiB, 1 or more")] = 2048
    #: the gateway that graphs find by `get_client()` of LangGraph's SDK; empty: none
    gateway_url: Annotated[str, AfterValidator(_gateway_url), Variable("AGENT_GATEWAY_URL", "http://HOST:PORT")] = ""
    #: what models cost, for budgets in dollars; None: nobody knows
    model_prices: Annotated[Path | None, Variable("MODEL_PRICES", "a JSON file with the prices of models")] = None
    #: a larger message is rejected unread; it must hold the children of one spawn, and so the record of their parent
    message_limit_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    #: for tests in which a process dies or stops at a certain point, see core/failpoints
    failpoints: Annotated[str, Variable("AGENT_FAILPOINTS", "NAME:NTH:ACTION, separated by commas")] = ""
    #: where it records what it goes through, to be replayed; None: nowhere
    record: Annotated[Path | None, Variable("AGENT_RECORD", "a folder for recordings")] = None
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        BeforeValidator(lambda text: text.upper() if isinstance(text, str) else text),
        Variable("LOG_LEVEL", "DEBUG, INFO, WARNING or ERROR"),
    ] = "INFO"
    log_format: Annotated[
        Literal["auto", "console", "json"], Variable("LOG_FORMAT", "auto (console on a terminal), console or json")
    ] = "auto"

    @model_validator(mode="after")
    def _timings_fit(self) -> Self:
        minimum_s = 2 * self.heartbeat_s
        for name, value in (("AGENT_FAILURE_TIMEOUT_S", self.failure_timeout_s), ("AGENT_LEASE_S", self.lease_s)):
            if value <= minimum_s:
                raise BadSetting(
                    name,
                    f"{value:g} s leaves no room for one lost heartbeat."
                    f" Set it above {minimum_s:g}, twice AGENT_HEARTBEAT_S, or lower AGENT_HEARTBEAT_S.",
                )
        return self


def _origins(text: str) -> str:
    for origin in filter(None, map(str.strip, text.split(","))):
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin[:80]!r} is no origin")
    return text


def _webhook_hosts(text: str) -> str:
    allowed_hosts(text)
    return text


ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


class GatewayConfig(Value):
    """Where a gateway listens, who may use it, and how much."""

    host: Annotated[
        str, Field(min_length=1), Variable("GATEWAY_HOST", "an address of this machine, 0.0.0.0 for all")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535), Variable("GATEWAY_PORT", "a port, 1 to 65535")] = 9001
    #: the API keys that are let in; None: nobody needs one
    keys: Annotated[
        Secret,
        Variable("GATEWAY_KEYS", "name:role:sha256 or name:role:sha256:tenant, separated by commas", secret=True),
    ] = None
    #: pages of a browser that may use it, besides those of this machine
    cors_origins: Annotated[
        str, AfterValidator(_origins), Variable("GATEWAY_CORS_ORIGINS", "origins, as https://chat.example, with commas")
    ] = ""
    #: the keys that check tokens, a JSON Web Key Set; None: no token is let in
    jwt_keys: Annotated[Secret, Variable("GATEWAY_JWT_KEYS", "a JSON Web Key Set", secret=True)] = None
    jwt_algorithm: Annotated[
        Literal["HS256", "RS256", "EdDSA"], Variable("GATEWAY_JWT_ALGORITHM", "HS256, RS256 or EdDSA")
    ] = "EdDSA"
    jwt_audience: Annotated[
        str, Field(min_length=1), Variable("GATEWAY_JWT_AUDIENCE", "what `aud` of a token says")
    ] = "agent-system"
    #: None: there is none, so no token can be let in
    jwt_issuer: Annotated[str | None, Variable("GATEWAY_JWT_ISSUER", "what `iss` of a token says")] = None
    #: by how much the clock of whoever issues tokens may differ
    jwt_leeway_s: Annotated[float, Field(ge=0, le=600), Variable("GATEWAY_JWT_LEEWAY_S", "seconds, 0 to 600")] = 30.0
    #: what one key or token may ask for in a second, at all gateways together; None: any number
    rate_per_s: Annotated[
        float | None, Field(gt=0, le=1e6), Variable("GATEWAY_RATE_PER_S", "requests a second, more than 0")
    ] = None
    #: requests, with open streams, that one gateway answers at the same time
    max_requests: Annotated[int, Field(ge=1), Variable("GATEWAY_MAX_REQUESTS", "a number of requests, 1 or more")] = (
        5000
    )
    body_mb: Annotated[float, Field(gt=0, le=64), Variable("GATEWAY_BODY_MB", "MiB, at most 64")] = 4.0
    #: whom it may call when tasks have ended
    webhook_hosts: Annotated[
        str,
        AfterValidator(_webhook_hosts),
        Variable("GATEWAY_WEBHOOK_HOSTS", "hosts and networks, as *.example.com,10.0.0.0/8"),
    ] = ""
    #: what it signs that with; None: it calls nobody
    webhook_secret: Annotated[Secret, Variable("WEBHOOK_SECRET", "a secret that receivers know", secret=True)] = None


class AgentIds(Value):
    """The ids of the three tiers and of their clients, unless a flag or a program gives another one."""

    coordinator_id: Annotated[AgentId, Variable("COORDINATOR_ID", _AN_ID)] = "coordinator-1"
    distributor_id: Annotated[AgentId, Variable("DISTRIBUTOR_ID", _AN_ID)] = "distributor-1"
    worker_id: Annotated[AgentId, Variable("WORKER_ID", _AN_ID)] = "worker-1"
    #: the name under which a program submits tasks; it sees and changes the tasks of clients with that name
    client_id: Annotated[
        str, AfterValidator(_client_id), Variable("A2A_CLIENT_ID", f"a client's name, or operator:NAME: {_AN_ID}")
    ] = "client"


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of `config show`."""

    name: str  #: the variable
    value_shown: str  #: secrets are masked; empty: not set
    source: str  #: flag | environment | .env | file | default


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a process, and the source of each value."""

    redis: RedisConfig
    a2a: A2ASecrets
    agent: AgentConfig
    gateway: GatewayConfig
    coordinator_id: str
    distributor_id: str
    worker_id: str
    client_id: str
    sources: list[Setting]
    secret_files: tuple[Path, ...]  #: files with secrets: those of NAME_FILE, .env, a private key
    doubts: tuple[str, ...]  #: a sentence for each variable that is ignored but may be misspelt

    def a2a_for(self, agent_id: str) -> A2AConfig:
        """The secrets, for one agent. Raises ConfigError when `agent_id` is malformed."""
        return A2AConfig(agent_id=agent_id, **dict(self.a2a))
