"""The two heads of a trained model that are known: layer 0 looks at the previous token, layer 1 is an induction head.

The model is of TransformerLens' form (no LayerNorm, attention alone, one head a layer); its queries, keys and values are
computed here and handed to ``attend``. On sequences that repeat a letter at the end, its authors' training makes it look
one position after the first copy.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import interp

SEQUENCES = 2000


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> dict[str, Tensor]:
    folder = shared_data / "models" / "gbmi-induction-2l"
    config = json.loads((folder / "config.json").read_text())
    assert (config["n_layers"], config["n_heads"], config["normalization_type"]) == (2, 1, None)
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def sequences() -> tuple[Tensor, Tensor]:
    """Eight distinct letters, then position 7 set to the letter of a position 0..5: ids [B, 8], and that position [B]."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(26, generator=generator)[:8] for _ in range(SEQUENCES)])
    first = torch.randint(0, 6, (SEQUENCES,), generator=generator)
    ids[:, 7] = ids[torch.arange(SEQUENCES), first]
    return ids, first


def scores(weights: dict[str, Tensor], ids: Tensor, first: Tensor, *, with_layer_0: bool = True) -> tuple[float, float]:
    """Previous token in layer 0 over positions 1..7, and induction at position 7 in layer 1."""
    x = weights["embed.W_E"][ids] + weights["pos_embed.W_pos"][:8]
    copies = torch.full_like(ids, -1)
    copies[:, 7] = ids[:, 7]
    previous = torch.full_like(ids, -1)
    previous[:, 1:] = ids[:, :-1]
    at_7 = torch.arange(8) == 7
    found = []
    for layer in (0, 1):
        w = {name.removeprefix(f"blocks.{layer}.attn."): value for name, value in weights.items()}
        q, k, v = (torch.einsum("btd,hde->bhte", x, w[f"W_{c}"]) + w[f"b_{c}"][None, :, None] for c in "QKV")
        attended = interp.attend(
            q,
            k,
            v,
            scale=1 / 8,
            probes=[
                interp.OffsetMass((1,), reduce="mean"),
                interp.LabelMatch(copies, previous, queries=at_7, reduce="mean", name="induction"),
            ],
        )
        found.append(attended.stats)
        out = torch.einsum("bhte,hed->btd", attended.output, w["W_O"]) + w["b_O"]
        if layer == 1 or with_layer_0:
            x = x + out
    after = attended.map.rows([7])[torch.arange(SEQUENCES), 0, 0, first + 1]
    torch.testing.assert_close(found[1]["induction"][:, 0], after)  # the label match is the mass on that one key
    return float(found[0]["offset_mass"].mean()), float(found[1]["induction"].mean())


def test_both_heads_are_found(weights: dict[str, Tensor], sequences: tuple[Tensor, Tensor]):
    previous, induction = scores(weights, *sequences)
    assert previous >= 0.99
    assert induction >= 0.90


def test_without_layer_0_there_is_no_induction(weights: dict[str, Tensor], sequences: tuple[Tensor, Tensor]):
    """The negative control: nothing tells layer 1 what stood before."""
    _, induction = scores(weights, *sequences, with_layer_0=False)
    assert induction < 0.3


def test_chance_is_far_below(weights: dict[str, Tensor], sequences: tuple[Tensor, Tensor]):
    """Uniform attention: one of eight keys at position 7."""
    uniform = {
        name: torch.zeros_like(value) if "W_Q" in name or "b_Q" in name else value for name, value in weights.items()
    }
    previous, induction = scores(uniform, *sequences)
    assert previous == pytest.approx(sum(1 / (i + 1) for i in range(1, 8)) / 7, abs=1e-5)
    assert induction == pytest.approx(1 / 8, abs=1e-5)
