"""What a needle trial asks with: a needle as tokens, and what stands before and after the haystack that it is hidden in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from interp.errors import InputError
from interp.heads.haystack import after_a_sentence
from interp.heads.needles import Needle
from interp.inputs.tokens import NOWHERE, encoded, special_around
from interp.naming import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = Literal["auto", "cloze", "question", "chat"]
PROMPTS = ("auto", "cloze", "question", "chat")

PLACE = "⟨haystack⟩"
QUESTION = "\n\nAnswer from the text above. Question: {question}"
ANSWER = "\nAnswer:"
NEW_LINE = "\n"


@dataclass(frozen=True, eq=False)
class Asked:
    """A needle as tokens, and what goes around a haystack with it."""

    before: list[int]
    needle: list[int]
    answer: list[int]  # indices into needle
    after: list[int]
    stop: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.needle) + len(self.after)


def asked_for(
    needle: Needle, number: int, kind: str, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] | None
) -> Asked:
    """A needle as tokens in a prompt of a kind, "cloze", "question" or "chat". number: of the needle, for messages.

    Raises:
        InputError: the tokenizer makes no tokens of the answer; what the kind needs is missing.
    """
    ids, spans = after_a_sentence(f" {needle.statement}", tokenizer)
    first, last = 1 + needle.start, 1 + needle.start + len(needle.answer)
    if (spans == NOWHERE).all():
        # Without spans, tokens are counted: those of the statement up to the answer, and up to its end.
        before = (
            len(after_a_sentence(" " + needle.statement[: needle.start].rstrip(), tokenizer)[0]) if first > 1 else 0
        )
        answer = list(range(before, len(after_a_sentence(f" {needle.statement}"[:last], tokenizer)[0])))
    else:
        answer = [n for n, (start, end) in enumerate(spans.tolist()) if start < last and end > first]
    if not answer:
        raise InputError(f"needles[{number}].answer: the tokenizer makes no tokens of {needle.answer!r}")
    before, after = _around(needle, number, kind, tokenizer)
    end = re.match(r"\s*[.!?。]", needle.statement[last - 1 :])
    closes = kind == "cloze" and end is not None and end[0].strip() not in needle.answer
    ends = (NEW_LINE, end[0].strip()) if closes and end is not None else (NEW_LINE,)
    return Asked(before, ids, answer, after, ends if stop is None else tuple(stop))


def _around(needle: Needle, number: int, kind: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What stands before and after the haystack."""
    if kind == "cloze":
        if not needle.asked:
            raise InputError(
                f"needles[{number}]: its answer begins the statement, so that nothing leads up to it; give cloze="
            )
        return list(special_around(tokenizer)[0]), after_a_sentence(f" {needle.asked}", tokenizer)[0]
    if needle.question is None:
        raise InputError(
            f"needles[{number}].question: a {kind} prompt asks a question, and there is none; give question="
        )
    question = QUESTION.format(question=needle.question)
    if kind == "question":
        return list(special_around(tokenizer)[0]), after_a_sentence(question + ANSWER, tokenizer)[0]
    from interp.inputs.chat import written_out

    message = {"role": "user", "content": PLACE + question}
    text = written_out([message], tokenizer, add_generation_prompt=True)
    if text.count(PLACE) != 1:
        raise InputError(
            f"prompt: the chat template writes the user's text {text.count(PLACE)} times; use prompt='question'"
        )
    before, after = text.split(PLACE)
    opening = encoded(before, tokenizer, special=False).ids if before.strip() else list(special_around(tokenizer)[0])
    return opening, after_a_sentence(after, tokenizer)[0]


def prompt_kind(prompt: str, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """ "cloze", "question" or "chat", whichever "auto" stands for with this tokenizer.

    Raises:
        InputError: an unknown one, or a chat without a template.
    """
    if prompt not in PROMPTS:
        raise InputError(f"prompt: unknown {prompt!r}; {nearest(str(prompt), PROMPTS)}")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if prompt == "chat" and not has_template:
        raise InputError(
            "prompt: 'chat' needs a tokenizer with a chat template, and this one has none; give 'question'"
        )
    if prompt == "auto":
        return "chat" if has_template else "cloze"
    return prompt
