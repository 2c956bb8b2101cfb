"""Chat messages, written out by the tokenizer's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from interp.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
"""{"role": "user", "content": "..."}; a template may read further keys, such as "tool_calls"."""


def conversations_of(inputs: Any) -> list[list[Message]] | None:
    """One conversation or several, as a list of them; None if ``inputs`` is something else.

    Raises:
        InputError: a conversation among other things, or a message without a role.
    """
    if not isinstance(inputs, Sequence) or isinstance(inputs, str) or not inputs:
        return None
    if isinstance(inputs[0], Mapping):
        conversations = [inputs]
    elif isinstance(inputs[0], Sequence) and inputs[0] and isinstance(inputs[0][0], Mapping):
        conversations = list(inputs)
    else:
        return None
    for number, conversation in enumerate(conversations):
        where = f" of conversation {number}" if len(conversations) > 1 else ""
        if not isinstance(conversation, Sequence) or isinstance(conversation, str) or not conversation:
            raise InputError(f"conversation {number}: expected a list of messages, got {conversation!r:.60}")
        for at, message in enumerate(conversation):
            _check_message(message, f"message {at}{where}")
    return [list(cast("Sequence[Message]", each)) for each in conversations]


def written_out(
    conversation: Sequence[Message], tokenizer: PreTrainedTokenizerBase | None, *, add_generation_prompt: bool = False
) -> str:
    """The text of a conversation, special tokens included, as the tokenizer's chat template writes it.

    Args:
        add_generation_prompt: end with what opens the assistant's answer.

    Raises:
        InputError: no tokenizer, or one without a chat template; the template refuses the messages.
    """
    import jinja2

    if tokenizer is None:
        raise InputError("chat messages need a tokenizer with a chat template; load(..., tokenizer=...) with one")
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer ({type(tokenizer).__name__}) has no chat template; give the text itself, "
            "or set tokenizer.chat_template"
        )
    messages = [dict(message) for message in conversation]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"the tokenizer's chat template cannot write these messages: {error}") from error
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            "the tokenizer's chat template writes nothing for these messages; give at least one with content"
        )
    return text


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError(f"{where}: expected {{'role': 'user', 'content': a text}}, got {message!r:.80}")
    content = message.get("content")
    if content is None and set(message) - {"role", "content"}:  # such as tool calls, which the template knows
        return
    parts = content if isinstance(content, list) else []
    if not isinstance(content, str) and not (parts and all(isinstance(part, Mapping) for part in parts)):
        raise InputError(f"{where}: expected a text as its content, got {content!r:.60}")
    if any(part.get("type", "text") != "text" for part in parts):
        raise InputError(f"{where} holds more than text; give what the model's processor returns for it")
