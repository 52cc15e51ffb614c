"""An agent that remembers beyond its threads, in the store that the server gives it."""

from __future__ import annotations

from uuid import uuid4

from langchain.agents import create_agent
from langchain.tools import ToolRuntime

from examples.offline_model import chat_model


def _namespace(runtime: ToolRuntime) -> tuple[str, str]:
    return "memories", runtime.config["configurable"].get("user_id", "anyone")


def remember(text: str, runtime: ToolRuntime) -> str:
    """Remembers something for later."""
    assert runtime.store is not None
    runtime.store.put(_namespace(runtime), str(uuid4()), {"text": text})
    return "remembered"


async def recall(about: str, runtime: ToolRuntime) -> str:
    """Recalls what was to be remembered of a subject."""
    assert runtime.store is not None
    found = await runtime.store.asearch(_namespace(runtime), query=about, limit=1)
    return "; ".join(item.value["text"] for item in found)


agent = create_agent(chat_model(), tools=[remember, recall], system_prompt="You have a good memory.")
