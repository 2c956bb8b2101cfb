"""Values of generation settings: of the kind and within the bounds that the library wants, told before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from interp.arguments import shown
from interp.errors import InputError
from interp_kernels.integers import whole, whole_numbers

COUNTS = ("top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_new_tokens", "min_length")
"""Integers from 0 on."""
ABOVE_0 = ("temperature", "repetition_penalty", "encoder_repetition_penalty", "max_time")
SHARES = ("top_p", "typical_p", "top_h")
"""Above 0 and at most 1."""
CUTOFFS = ("min_p", "epsilon_cutoff", "eta_cutoff")
"""From 0 to 1."""
SWITCHES = ("renormalize_logits", "remove_invalid_values")
ONE_ID = ("pad_token_id", "bos_token_id", "forced_bos_token_id")
IDS = ("eos_token_id", "forced_eos_token_id", "decoder_start_token_id")
"""One token id or several."""
SEVERAL_IDS = ("suppress_tokens", "begin_suppress_tokens")
NEVER_NONE = ("top_k", "top_p", "temperature", "repetition_penalty", "encoder_repetition_penalty")


def check_value(name: str, value: Any, vocabulary: int) -> None:
    """Refuse a value that the library would stumble over, of the settings that are numbers, switches, ids or strings.

    vocabulary: how many token ids the model knows

    Raises:
        InputError: names the setting, what was expected, what came.
    """
    expected = None if value is None and name not in NEVER_NONE else _expected(name, value)
    if expected is not None:
        raise InputError(f"{name}: expected {expected}, got {shown(value)}")
    if value is not None and name in (*ONE_ID, *IDS, *SEVERAL_IDS):
        _check_ids_known(name, value, vocabulary)


def _check_ids_known(name: str, value: Any, vocabulary: int) -> None:
    """Refuse ids that the model does not know: read, they have no embedding, and it never writes them.

    Raises:
        InputError: names the setting, and the vocabulary.
    """
    one = whole(value)
    unknown = [i for i in (whole_numbers(value) or [] if one is None else [one]) if not 0 <= i < vocabulary]
    if unknown:
        raise InputError(
            f"{name}: token id {unknown[0]} is outside of the model's vocabulary of {vocabulary} (0 to {vocabulary - 1}); give "
            "an id that the model knows (one that was added to the tokenizer alone is none)"
        )


def _expected(name: str, value: Any) -> str | None:
    """What ``value`` should have been, None where it is."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if name in COUNTS:
        all_tokens = " (0: all tokens)" if name == "top_k" else ""
        return (
            None if (whole(value) or 0) >= 0 and whole(value) is not None else f"an integer of at least 0{all_tokens}"
        )
    if name in ABOVE_0:
        return None if 0 < number < math.inf else "a number above 0"
    if name in SHARES:
        return None if 0 < number <= 1 else "a number above 0 and at most 1"
    if name in CUTOFFS:
        return None if 0 <= number <= 1 else "a number from 0 to 1"
    if name in SWITCHES:
        return None if isinstance(value, bool) else "True or False"
    if name in ONE_ID:
        return None if whole(value) is not None else "a token id"
    if name in IDS:
        return None if whole(value) is not None or whole_numbers(value) else "a token id, or several (at least one)"
    if name in SEVERAL_IDS:
        return None if whole_numbers(value) else "a list of token ids (at least one)"
    if name == "stop_strings":
        several = isinstance(value, Sequence) and bool(value) and all(isinstance(each, str) and each for each in value)
        return None if several else "a string, or several, none of them empty"
    return None
