"""What a run of head dossiers depends on, beside the model and the passages. Without torch: plans of batches are read with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.naming import nearest

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

LONGEST = 2048
"""Positions of a passage where the model has no bound."""
TOKEN_BYTES = 2**28
"""What the sums by token may take, both sides together."""
LEAST_TOKEN_ROWS = 1024


@dataclass(frozen=True)
class DossierSettings:
    """What is measured and kept.

    length      positions of the longest passage, special tokens included; None: the model's context (2,048 where it has none)
    by          the metric that passages are ranked by, of ``interp.dossiers.METRICS``
    strongest   passages of each head with the largest value of it
    samples     passages of each head out of each fifth of its distribution
    pool        passages that the samples are drawn from, the same for all heads, themselves drawn uniformly from the corpus
    top         edges of each query that are kept, largest first
    least       smallest weight of an edge that is kept
    token_rows  different tokens that sums are kept of; None: as many as 2^28 bytes hold, and at least 1,024
    seed        of what is drawn, from 0 to 2^32 - 1
    """

    length: int | None = None
    by: str = "strongest"
    strongest: int = 8
    samples: int = 3
    pool: int = 512
    top: int = 4
    least: float = 0.02
    token_rows: int | None = None
    seed: int = 0

    def resolved(self, model: HookedModel) -> DossierSettings:
        """The same with everything that the model decides filled in.

        Raises:
            InputError: an argument is out of its range, or does not fit the model.
        """
        from interp.dossiers.metrics import metrics_of
        from interp_kernels.integers import whole

        for name, least in (("strongest", 1), ("samples", 0), ("pool", 5), ("top", 1)):
            found = whole(getattr(self, name))
            if found is None or found < least:
                raise InputError(f"{name}: expected a whole number of at least {least}, got {getattr(self, name)!r}")
        if self.pool < 5 * self.samples:
            raise InputError(
                f"pool: {self.pool} passages cannot give {self.samples} out of each fifth; give at least {5 * self.samples}"
            )
        if isinstance(self.least, bool) or not isinstance(self.least, int | float) or not 0 <= self.least < 1:
            raise InputError(f"least: expected a weight of at least 0 and below 1, got {self.least!r}")
        seed = whole(self.seed)
        if seed is None or not 0 <= seed < 2**32:
            raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {self.seed!r}")
        names = [metric.name for metric in metrics_of(model)]
        if self.by not in names:
            raise InputError(f"by: unknown metric {self.by!r}; {nearest(str(self.by), names)}")
        rows = self.token_rows
        if rows is None:
            heads = len(model.layers) * model.shape.heads
            rows = max(LEAST_TOKEN_ROWS, TOKEN_BYTES // (16 * heads))
        elif whole(rows) is None or rows < 16:
            raise InputError(f"token_rows: expected a whole number of at least 16, got {rows!r}")
        return replace(self, length=_length(model, self.length), token_rows=rows)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def longest(self) -> int:
        """``length`` of resolved settings."""
        if self.length is None:
            raise InputError("settings: length is not known yet; take settings.resolved(model)")
        return self.length


def _length(model: HookedModel, asked: int | None) -> int:
    from interp.inputs.tokens import special_around
    from interp_kernels.integers import whole

    found = model.shape.context or LONGEST if asked is None else whole(asked)
    around = sum(map(len, special_around(model.tokenizer)))
    if found is None or found < around + 2:
        raise InputError(
            f"length: expected a whole number of at least {around + 2} (two tokens and the special ones), got {asked!r}"
        )
    model.check_length(found, beyond_context=False)
    return found
