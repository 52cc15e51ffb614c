"""What the gateways of coordinator C remember together. T is a thread; for a run without one, the run itself.

{gateway:C}:assistants                   hash    assistant id -> its version in use, JSON   -         gateways
{gateway:C}:versions:A                   hash    number -> that version of assistant A, JSON -        gateways
{gateway:C}:threads                      hash    thread id -> its metadata and times, JSON  -         gateways
{gateway:C}:recent                       zset    thread id by when it has changed (ms)      -         gateways
{gateway:C}:expiring                     zset    thread id by when it expires (ms)          -         gateways
{gateway:C}:sweep                        string  that somebody has looked for such lately   seconds   gateways
{gateway:C}:runs:T                       hash    run id -> what was asked, JSON             1 day     gateways
                                                 (of a thread that is kept: no TTL)
{gateway:C}:crons:T                      set     crons that begin runs in thread T          -         gateways
{gateway:C}:kept_crons                   set     crons that keep a thread of each run       -         gateways
{gateway:C}:seen_crons                   hash    cron -> the time of its last run that is   -         gateways
                                                 recorded
{gateway:C}:webhooks                     hash    id of a run or task -> whom to tell of its  -         gateways
                                                 end, JSON
{gateway:C}:webhooks:due                 zset    these by when they are looked at next (ms)  -         gateways
{gateway:C}:webhooks:failed              stream  those that were given up, bounded           -         gateways
{gateway:C}:store_index                  string  by what the store has found items, JSON     1 day     gateways
{gateway:C}:messages                     stream  messages of agents, but for their payload,  -         gateways
                                                 bounded
{gateway:C}:message:M                    string  message M, JSON                            its own   gateways
{gateway:C}:mailbox:A                    zset    messages to agent A, the most urgent first its own   gateways
{gateway:C}:peers:A                      hash    agent -> what it is to A                   30 days   gateways
{gateway:C}:request:K                    string  what was answered to the request of key K  1 day     gateways
{gateway:C}:answer:Q                     string  that somebody answers question Q now        a minute  gateways
{gateway:C}:rate:N                       string  when N may make all its requests again (µs) seconds   gateways
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GatewayKeys"]


@dataclass(frozen=True, slots=True)
class GatewayKeys:
    """`{gateway:ID}:...`"""

    coordinator_id: str

    @property
    def every(self) -> str:
        """A pattern that matches all of them."""
        return self._key("*")

    @property
    def threads(self) -> str:
        return self._key("threads")

    @property
    def recent(self) -> str:
        return self._key("recent")

    @property
    def expiring(self) -> str:
        return self._key("expiring")

    @property
    def sweep(self) -> str:
        return self._key("sweep")

    @property
    def assistants(self) -> str:
        return self._key("assistants")

    def versions(self, assistant_id: str) -> str:
        return self._key(f"versions:{assistant_id}")

    def runs(self, thread_id: str) -> str:
        return self._key(f"runs:{thread_id}")

    def crons(self, thread_id: str) -> str:
        return self._key(f"crons:{thread_id}")

    @property
    def kept_crons(self) -> str:
        return self._key("kept_crons")

    @property
    def seen_crons(self) -> str:
        return self._key("seen_crons")

    @property
    def webhooks(self) -> str:
        return self._key("webhooks")

    @property
    def webhooks_due(self) -> str:
        return self._key("webhooks:due")

    @property
    def webhooks_failed(self) -> str:
        return self._key("webhooks:failed")

    @property
    def store_index(self) -> str:
        return self._key("store_index")

    @property
    def messages(self) -> str:
        return self._key("messages")

    def message(self, message_id: str) -> str:
        return self._key(f"message:{message_id}")

    def mailbox(self, agent_id: str) -> str:
        return self._key(f"mailbox:{agent_id}")

    def peers(self, agent_id: str) -> str:
        return self._key(f"peers:{agent_id}")

    def request(self, key: str) -> str:
        return self._key(f"request:{key}")

    def answer(self, question: str) -> str:
        return self._key(f"answer:{question}")

    def rate(self, name: str) -> str:
        return self._key(f"rate:{name}")

    def _key(self, name: str) -> str:
        return f"{{gateway:{self.coordinator_id}}}:{name}"
