"""The chat model of the examples: the one that AGENT_MODEL names, such as `openai:gpt-5`, and else one that answers by
rules, without a network, the same every time.

The rules, for the last message:
* a person's, and there is a tool that shares a word with it: it calls that tool, with arguments taken from the text;
* a tool's: it says what the tools have found;
* otherwise: it says what it was told.

Where structured output is asked for, it fills the schema from the text: with its numbers, in order, and the parts
between its semicolons.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

__all__ = ["OfflineModel", "chat_model"]

Schema = dict[str, Any]

#: Words that say nothing of what a text is about.
COMMON = {
    *("a", "an", "and", "are", "as", "at", "be", "by", "do", "does", "for", "from", "how", "i", "in", "is", "it", "me"),
    *("of", "on", "or", "that", "the", "this", "to", "what", "with"),
}


def chat_model() -> BaseChatModel:
    """The model that AGENT_MODEL names, as `init_chat_model` has it; without it, the one that needs no network."""
    if name := os.environ.get("AGENT_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    return OfflineModel()


class OfflineModel(BaseChatModel):
    """Answers by rules. It binds tools, gives structured output, and streams word by word."""

    @property
    def _llm_type(self) -> str:
        return "offline"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """With `tool_choice`, a tool is called whatever the message says: the one of that name, if it is a name."""
        told = [convert_to_openai_tool(tool)["function"] for tool in tools]
        return self.bind(tools=told, tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=_reply(messages, **kwargs))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = _reply(messages, **kwargs)
        for part in _parts(reply):
            chunk = ChatGenerationChunk(message=part)
            if run_manager is not None:
                run_manager.on_llm_new_token(str(part.content), chunk=chunk)
            yield chunk


def _parts(reply: AIMessage) -> Iterator[AIMessageChunk]:
    for word in re.findall(r"\S+\s*", str(reply.content)):
        yield AIMessageChunk(content=word, id=reply.id)
    calls = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
        for index, call in enumerate(reply.tool_calls)
    ]
    yield AIMessageChunk(
        content="", id=reply.id, tool_call_chunks=calls, usage_metadata=reply.usage_metadata, chunk_position="last"
    )


def _reply(
    messages: Sequence[BaseMessage], tools: Sequence[Schema] = (), tool_choice: str | None = None, **_: Any
) -> AIMessage:
    text = messages[-1].text if messages else ""
    mark = f"{zlib.crc32(repr([(message.type, message.text) for message in messages]).encode()):08x}"
    tool = _tool_for(messages, tools, tool_choice)
    calls, content = [], ""
    if tool is not None:
        calls = [tool_call(name=tool["name"], args=_arguments(tool, text), id=f"call-{mark}")]
    elif messages and isinstance(messages[-1], ToolMessage):
        content = f"I have found this: {' '.join(_found(messages))}"
    else:
        content = f"You say: {text}"
    counted = sum(len(message.text.split()) for message in messages)
    said = len(content.split()) + 10 * len(calls)
    usage: Any = {"input_tokens": counted, "output_tokens": said, "total_tokens": counted + said}
    return AIMessage(content, id=f"offline-{mark}", tool_calls=calls, usage_metadata=usage)


def _tool_for(messages: Sequence[BaseMessage], tools: Sequence[Schema], choice: str | None) -> Schema | None:
    """The tool to call now, if any."""
    if choice and choice != "auto" and tools:
        return next((tool for tool in tools if tool["name"] == choice), tools[0])
    if not tools or not messages or not isinstance(messages[-1], HumanMessage):
        return None
    asked = _words(messages[-1].text)
    shared = [len(asked & _words(f"{tool['name']} {tool.get('description', '')}")) for tool in tools]
    return tools[shared.index(max(shared))] if max(shared) else None


def _found(messages: Sequence[BaseMessage]) -> list[str]:
    """What the last tools have said, in their order."""
    found: list[str] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        found.insert(0, message.text)
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower().replace("_", " "))) - COMMON


def _arguments(tool: Schema, text: str) -> dict[str, Any]:
    schema = tool.get("parameters", {})
    numbers = iter(re.findall(r"-?\d+(?:\.\d+)?", text))
    needed = schema.get("required", schema.get("properties", {}))
    return {
        name: _value(kind, schema, text, numbers)
        for name, kind in schema.get("properties", {}).items()
        if name in needed
    }


def _value(kind: Schema, schema: Schema, text: str, numbers: Iterator[str]) -> Any:
    """A value of a JSON schema: the text, its numbers in order, or what there is to choose from."""
    if "$ref" in kind:
        kind = schema.get("$defs", {}).get(kind["$ref"].rpartition("/")[2], {})
    if options := [kind["const"]] if "const" in kind else kind.get("enum"):
        return next((option for option in options if str(option).lower() in text.lower()), options[0])
    if options := kind.get("anyOf"):
        return _value(options[0], schema, text, numbers)
    match kind.get("type"):
        case "integer":
            return int(float(next(numbers, "0")))
        case "number":
            return float(next(numbers, "0"))
        case "boolean":
            return "not" not in _words(text)
        case "array":
            parts = re.split(r"\s*[;\n]\s*", text.strip())
            return [_value(kind.get("items", {}), schema, part, numbers) for part in parts if part]
        case "object":
            inner = {**schema, "properties": kind.get("properties", {}), "required": kind.get("required", [])}
            return _arguments({"parameters": inner}, text)
        case _:
            return text
