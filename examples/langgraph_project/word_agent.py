"""An agent that has tools, as `create_agent` makes them."""

from __future__ import annotations

from langchain.agents import create_agent

from examples.offline_model import chat_model


def count_words(text: str) -> str:
    """Counts the words of a text."""
    return f"{len(text.split())} words"


def reverse(text: str) -> str:
    """Reverses a text, backwards letter by letter."""
    return text[::-1]


agent = create_agent(chat_model(), tools=[count_words, reverse], system_prompt="You are careful with words.")
