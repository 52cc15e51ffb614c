"""What an operator's client changes about how tasks are handed out."""

from __future__ import annotations

from core.client.questions import Questions
from core.errors import UserError
from core.reports import StrategyWanted, item_of
from core.roles import Action, Address, Role
from core.runtime.portal import operation
from core.strategies import OF_NONE, strategy_named

__all__ = ["Strategies"]


class Strategies(Questions):
    """A part of AgentClient: it sets strategies."""

    _me: Address

    @operation
    async def set_strategy(self, strategy: str, distributor_id: str | None = None, timeout_s: float = 30.0) -> bool:
        """Has tasks handed out by another strategy from now on: by the coordinator and all distributors that have none
        of their own, or by one distributor. `"default"` takes its own strategy from a distributor again. Returns True
        once that is recorded; distributors follow within a heartbeat.

        Raises UserError: there is no such strategy, or this client is no operator. TaskTimeout, TransportDown,
        ServerRefused, PeerError: as `submit`. Setting it again is safe."""
        wanted = strategy if strategy == OF_NONE else strategy_named(strategy).value
        if self._me.role is not Role.OPERATOR:
            raise UserError("only an operator sets strategies: make the client with client_id='operator:NAME'")
        item = item_of(StrategyWanted(strategy=wanted, distributor=distributor_id))
        for refusal in await self._ask(Action.SET_STRATEGY, [item], timeout_s):
            raise UserError(refusal.reason)
        return True
