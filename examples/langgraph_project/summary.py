"""LangGraph's functional API: tasks side by side, below an entrypoint."""

from __future__ import annotations

from langgraph.func import entrypoint, task

from examples.offline_model import chat_model


@task
async def first_sentence(text: str) -> str:
    reply = await chat_model().ainvoke(text.partition(".")[0])
    return reply.text.removeprefix("You say: ")


@entrypoint()
async def summarize(texts: list[str]) -> str:
    return "; ".join([await sentence for sentence in [first_sentence(text) for text in texts]])
