"""What one forward run takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from interp.inputs.tokens import TokenRow

Padding = Literal["right", "left"]
Flag = bool | int | float | str


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward run takes.

    ids           token ids [B, T]; None where the model reads none (pixels, sound)
    keep          [B, T], False at padding; None without ids
    others        further tensors among the arguments of the model's forward, such as ``pixel_values`` or ``position_ids``
    token_rows    the tokens of each row, without padding, with their text and where they stand in it; () if not known
    decoder_rows  the same of what an encoder-decoder's decoder is given, where it is given text or ids
    flags         arguments of the forward that are no tensors, such as ``interpolate_pos_encoding``
    """

    ids: Tensor | None
    keep: Tensor | None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    token_rows: tuple[TokenRow, ...] = ()
    decoder_rows: tuple[TokenRow, ...] = ()
    flags: Mapping[str, Flag] = field(default_factory=dict)

    @property
    def is_padded(self) -> bool:
        return self.keep is not None and not bool(self.keep.all())

    @property
    def padding(self) -> Padding | None:
        """The side on which padding stands; None without any."""
        return None if self.keep is None else padding_of(self.keep)

    @property
    def rows(self) -> int:
        """Sequences, images or sounds; what the decoder reads is counted only where there is nothing else."""
        if self.ids is not None:
            return self.ids.shape[0]
        read = [value for name, value in self.others.items() if not name.startswith("decoder_")]
        return (read or list(self.others.values()))[0].shape[0] if self.others else 1

    @property
    def tokens(self) -> int:
        """Positions of the longest sequence of ids or of ``inputs_embeds``, 0 without either."""
        given = self.others.get("inputs_embeds") if self.ids is None else self.ids
        return 0 if given is None else given.shape[1]

    @property
    def arguments(self) -> dict[str, Tensor | Flag]:
        """What to call the model's forward with."""
        ids = {} if self.ids is None else {"input_ids": self.ids}
        # Positions that start again tell packed documents apart, unless a mask is given: without padding it says nothing else.
        says_nothing = self.keep is None or ("position_ids" in self.others and not self.is_padded)
        keep = {} if self.keep is None or says_nothing else {"attention_mask": self.keep.long()}
        return {**ids, **keep, **self.others, **self.flags}

    @property
    def has_decoder(self) -> bool:
        """Whether a decoder reads something of its own, so that cross attention runs from it to ``ids`` or the like.

        Without one, cross attention runs from ``ids`` to what is no text, such as the images of Mllama.
        """
        return self.ids is None or any(name.startswith("decoder_") for name in self.others)

    def queries_kept(self, stack: str) -> Tensor | None:
        """Which queries of a stack of layers are no padding, [B, Tq]; None where all are."""
        if stack == "decoder" or (stack == "cross" and self.has_decoder):
            keep = self.others.get("decoder_attention_mask")
            return None if keep is None or bool(keep.all()) else keep.bool()
        return self.keep if self.is_padded and stack in ("", "encoder", "text", "cross") else None

    def keys_kept(self, stack: str) -> Tensor | None:
        """Which keys of a stack of layers are no padding, [B, Tk]; None where all are."""
        if stack != "cross":
            return self.queries_kept(stack)
        return self.queries_kept("encoder") if self.has_decoder else None


def padding_of(keep: Tensor) -> Padding | None:
    """The side on which padding stands in keep [B, T]; None without any."""
    return None if bool(keep.all()) else "right" if is_right_padded(keep) else "left"


def is_right_padded(keep: Tensor) -> bool:
    """Whether no kept token follows padding in keep [B, T]; so too without padding."""
    return not bool((keep[:, 1:] & ~keep[:, :-1]).any())
