"""What a capture may keep beside its probes: heads' outputs, what they write, norms of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interp.arguments import shown
from interp.captures.statistic import Statistic
from interp.errors import InputError

Contributions = bool | Literal["norm"]
ValueNorms = bool | Literal["written"]


@dataclass(frozen=True)
class Extras:
    """What is kept beside the probes; see ``HookedModel.capture``."""

    outputs: bool = False
    contributions: Contributions = False
    value_norms: ValueNorms = False

    def __post_init__(self) -> None:
        for name, value, word in (
            ("outputs", self.outputs, None),
            ("contributions", self.contributions, "norm"),
            ("value_norms", self.value_norms, "written"),
        ):
            is_word = word is not None and isinstance(value, str) and value == word
            if not isinstance(value, bool) and not is_word:
                expected = "True or False" if word is None else f"True, False or {word!r}"
                raise InputError(f"{name}: expected {expected}, got {shown(value)}")

    @property
    def need_projections(self) -> bool:
        return self.contributions is not False or self.value_norms == "written"

    @property
    def statistics(self) -> dict[str, Statistic]:
        """Their names and meanings."""
        per_head, per_query = ("batch", "head"), ("batch", "head", "query")
        return {
            name: Statistic(axes, None, formula)
            for name, wanted, axes, formula in (
                ("output", self.outputs, (*per_query, "column"), "z_h, sum_j P_ij v_j as handed to the model"),
                ("contribution", self.contributions is True, (*per_query, "column"), "z_h W_O^h"),
                ("contribution_norm", self.contributions == "norm", per_query, "||z_h W_O^h||"),
                ("value_norm", self.value_norms is not False, ("batch", "kv_head", "key"), "||v_j||"),
                ("value_written_norm", self.value_norms == "written", (*per_head, "key"), "||v_j W_O^h||"),
            )
            if wanted
        }
