"""LangChain callbacks that ask for each call of a model whether the budget allows it. The import takes a while."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from core.budget import Grants, Reservation, Settlement
from worker.authoring.context import Context
from worker.hosts.account_calls import RunAccounts
from worker.hosts.graph_callbacks import tokens_of

__all__ = ["BudgetCallbacks"]

#: How many characters of a text make a token, as an estimate before the model counts them itself.
CHARACTERS_A_TOKEN = 4


class BudgetCallbacks(BaseCallbackHandler):
    """Refuses the calls of models for which no budget is left. LangChain calls it in threads, where it may wait."""

    raise_error = True  # otherwise LangChain only logs the refusal, and makes the call

    def __init__(self, context: Context, grants: Grants, accounts: RunAccounts) -> None:
        self._context = context
        self._grants = grants
        self._accounts = accounts
        self._models: dict[Any, str] = {}  #: by the id of a call under way

    @property
    def ignore_chain(self) -> bool:
        """Only models cost anything."""
        return True

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **told: Any) -> None:
        self._reserve(sum(len(message.text) for batch in messages for message in batch), run_id, told)

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: Any, **told: Any) -> None:
        self._reserve(sum(map(len, prompts)), run_id, told)

    def on_llm_end(self, response: Any, *, run_id: Any, **told: Any) -> None:
        used = tokens_of(response)
        self._settle(run_id, used.get("input_tokens", 0), used.get("output_tokens", 0), known=bool(used))

    def on_llm_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        self._settle(run_id, 0, 0)  # a call, and no tokens

    def _reserve(self, characters: int, run_id: Any, told: dict[str, Any]) -> None:
        metadata = told.get("metadata") or {}
        model = str(metadata.get("ls_model_name") or "?")
        most = metadata.get("ls_max_tokens")
        self._accounts.reserve(
            Reservation(
                call_id=str(run_id),
                task_id=self._context.task_id,
                attempt=self._context.attempt,
                grants=self._grants,
                model=model,
                input_tokens=characters // CHARACTERS_A_TOKEN + 1,
                output_tokens=most if isinstance(most, int) and most >= 0 else None,
            )
        )
        self._models[run_id] = model

    def _settle(self, run_id: Any, input_tokens: int, output_tokens: int, *, known: bool = True) -> None:
        if (model := self._models.pop(run_id, None)) is not None:  # otherwise the call was refused
            self._accounts.settle(Settlement(str(run_id), self._grants, model, input_tokens, output_tokens, known))
