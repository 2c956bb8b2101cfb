"""What the forward of each kind of model takes: token ids with padding on both sides, pairs of texts, pixels, sound."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.interp.tiny import VOCABULARY

T = 22


def _ids(rows: int, length: int, seed: int) -> Tensor:
    return torch.randint(5, VOCABULARY - 5, (rows, length), generator=torch.Generator().manual_seed(seed))


def _keep(length: int) -> Tensor:
    """A whole row, one padded on the right and one padded on the left."""
    keep = torch.ones(3, length, dtype=torch.int64)
    keep[1, length - 6 :] = 0
    keep[2, :4] = 0
    return keep


def tokens() -> dict[str, Tensor]:
    keep = _keep(T)
    return {"input_ids": torch.where(keep.bool(), _ids(3, T, 1), 2), "attention_mask": keep}


def tokens_padded_right() -> dict[str, Tensor]:
    """For models whose states of padding on the left reach what follows, or that refuse it."""
    return {name: value[:2] for name, value in tokens().items()}


def whole_tokens() -> dict[str, Tensor]:
    """For models that take no attention mask."""
    return {"input_ids": _ids(3, T, 1)}


def pairs() -> dict[str, Tensor]:
    """A text to read and one to write, of different lengths, each with padding on the right."""
    length = T - 5
    keep = torch.ones(3, length, dtype=torch.int64)
    keep[2, length - 3 :] = 0
    ids = torch.where(keep.bool(), _ids(3, length, 2), 2)
    read = {name: value[[0, 1, 0]] for name, value in tokens().items()}
    return read | {"decoder_input_ids": ids, "decoder_attention_mask": keep}


def pixels(size: int = 32, channels: int = 3) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": _noise(2, channels, size, size)}


def frames(count: int = 4, size: int = 16) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": _noise(2, count, 3, size, size)}


def images_and_texts(size: int = 32) -> Callable[[], dict[str, Tensor]]:
    """As many images as texts. Padding is on the right: CLIP may pool a text at its first position."""
    return lambda: {**tokens_padded_right(), "pixel_values": _noise(2, 3, size, size)}


def wave(samples: int = 400) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"input_values": _noise(2, samples)}


def spectrum(bins: int, length: int) -> Callable[[], dict[str, Tensor]]:
    """For speech to text: mel bins over time, and the text so far."""
    text = pairs()
    return lambda: {
        "input_features": _noise(3, bins, length),
        "decoder_input_ids": text["decoder_input_ids"],
        "decoder_attention_mask": text["decoder_attention_mask"],
    }


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def mel(length: int, bins: int, name: str = "input_features") -> Callable[[], dict[str, Tensor]]:
    """Mel bins over time, read by an encoder."""
    return lambda: {name: _noise(2, length, bins)}


def image_in_text(
    patches: int, size: int = 32, image_token: int = 59, *, image_axis: bool = False
) -> Callable[[], dict[str, Tensor]]:
    """One image a text, in the place of ``patches`` image tokens; image_axis: the images of a text have an axis."""

    def made() -> dict[str, Tensor]:
        text = tokens_padded_right()
        text["input_ids"][:, 2 : 2 + patches] = image_token
        images = _noise(2, 3, size, size)
        return {**text, "pixel_values": images[:, None] if image_axis else images}

    return made


def packed_image(patches: int, width: int, image_token: int = 59) -> Callable[[], dict[str, Tensor]]:
    """One text with an image cut into 4 x 4 patches of ``width`` numbers, of which 2 x 2 make a token."""

    def made() -> dict[str, Tensor]:
        text = {name: value[:1] for name, value in tokens().items()}
        text["input_ids"][:, 2 : 2 + patches // 4] = image_token
        kinds = (text["input_ids"] == image_token).long()
        grid = torch.tensor([[1, 4, patches // 4]])
        return {**text, "mm_token_type_ids": kinds, "pixel_values": _noise(patches, width), "image_grid_thw": grid}

    return made


def tiled_image_beside_text(size: int = 32, image_token: int = 59) -> Callable[[], dict[str, Tensor]]:
    """One image of one tile for each text, which sees it by cross attention."""

    def made() -> dict[str, Tensor]:
        text = tokens_padded_right()
        text["input_ids"][:, 0] = image_token
        rows, length = text["input_ids"].shape
        return {
            **text,
            "pixel_values": _noise(rows, 1, 1, 3, size, size),
            "aspect_ratio_ids": torch.ones(rows, 1, dtype=torch.int64),
            "aspect_ratio_mask": torch.ones(rows, 1, 1, dtype=torch.int64),
            "cross_attention_mask": torch.ones(rows, length, 1, 1, dtype=torch.int64),
        }

    return made
