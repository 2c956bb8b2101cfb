"""One architecture through interp and through its own eager attention: output, layers, and every statistic of every layer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import interp
from interp.inputs.batch import Batch
from interp.models.call import AttentionCall
from interp.models.hooked import HookedModel
from interp.models.layers import AttentionLayer
from interp_kernels import Attended
from tests.interp.zoo import oracle
from tests.interp.zoo.entry import Entry

LONGEST = 600
DRAW = torch.Generator().manual_seed(7)
GIVEN: dict[str, Any] = {
    "weights": torch.rand(LONGEST, 2, generator=DRAW),
    "a": torch.randint(-1, 4, (LONGEST,), generator=DRAW),
    "b": torch.randint(-1, 4, (LONGEST,), generator=DRAW),
    "offsets": (0, 1, 5, -2),
    "bins": ((0, 1), (1, 4), (4, 16)),
    "block": 8,
}


@dataclass
class Parity:
    """How far interp's numbers and those of the model's own float32 eager attention are from float64.

    errors    what was compared -> (error of interp, error of the model's own, unit in the last place)
    features  what the calls of attention held
    """

    entry: Entry
    layers: tuple[int | str, ...]
    errors: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    features: set[str] = field(default_factory=set)

    def add(self, name: str, got: Tensor, own: Tensor, exact: Tensor) -> None:
        assert got.shape == exact.shape, f"{name}: {list(got.shape)}, expected {list(exact.shape)}"
        got, own = got.double(), own.double()
        assert torch.equal(got.isnan(), exact.isnan()), f"{name}: NaN in other places than padding"
        scale = max(1e-6, float(exact.nan_to_num().abs().max()))
        ulp = torch.finfo(torch.float32).eps * scale
        errors = [float((x - exact).nan_to_num().abs().max()) for x in (got, own)]
        before = self.errors.get(name, (0.0, 0.0, 0.0))
        self.errors[name] = max(before[0], errors[0]), max(before[1], errors[1]), max(before[2], ulp)

    def check_far_from_uniform(self, layer: AttentionLayer, p: Tensor, keep: Tensor | None) -> None:
        """Else the comparison could not tell right from wrong."""
        rows = p if keep is None else p[keep[:, None, :].expand(p.shape[:3])]
        seen = (rows > 0).sum(-1, keepdim=True)
        off = (rows * seen - 1).abs()[(rows > 0) & (seen > 1)]
        assert off.numel() == 0 or off.max() > 0.3, f"layer {layer.key} of {self.entry.model} attends evenly"

    @property
    def worst(self) -> tuple[float, str]:
        """The largest of error / allowed error, and where. At most 1 where there is parity."""
        return max((got / (2 * own + 8 * ulp), name) for name, (got, own, ulp) in self.errors.items())


def parity(entry: Entry) -> Parity:
    """Run ``entry`` on its inputs: by interp in float32, and eager in float32 and float64."""
    model = interp.load(entry.build())
    batch = model.batch(entry.inputs())
    inputs = batch.arguments
    eager = entry.build("eager")
    own_output, own = oracle.run(eager, inputs, torch.float32)
    own = {path: maps for path, module in eager.named_modules(remove_duplicate=False) if (maps := own.get(module))}
    exact_output, exact = oracle.run(eager.double(), inputs, torch.float64)
    exact = {path: maps for path, module in eager.named_modules(remove_duplicate=False) if (maps := exact.get(module))}

    found = Parity(entry, model.layers)
    ran = _compare_output(model, batch, found, own_output, exact_output)
    groups: defaultdict[tuple[Any, ...], list[tuple[AttentionLayer, Tensor, Tensor]]] = defaultdict(list)
    for served in model.host.layers.values():
        for turn, layer in enumerate(each for each in served if each.key in ran):
            p = exact[layer.path][turn]
            groups[(layer.stack, *p.shape)].append((layer, own[layer.path][turn], p))
    for (stack, *_), members in groups.items():
        _compare_statistics(model, batch, found, stack, members)
    return found


def _compare_output(model: HookedModel, batch: Batch, found: Parity, own: Tensor, exact: Tensor) -> list[int | str]:
    """Logits, or the last hidden states of a model without a head, where there is no padding. Returns the layers that ran."""
    ran: list[int | str] = []

    def record(call: AttentionCall, attended: Attended) -> None:
        ran.append(call.layer.key)
        found.features.update(features_of(call))

    with torch.no_grad():
        has_logits = getattr(model(batch), "logits", None) is not None
    got = model.run(batch, lambda _: (), record, logits=has_logits)
    keep = batch.arguments.get("decoder_attention_mask", batch.arguments.get("attention_mask"))
    if keep is not None and got.shape[:2] == keep.shape:
        got, own, exact = (x[keep.bool()] for x in (got, own, exact))
    found.add("output", got, own, exact)
    return ran


def _compare_statistics(
    model: HookedModel,
    batch: Batch,
    found: Parity,
    stack: str,
    members: list[tuple[AttentionLayer, Tensor, Tensor]],
) -> None:
    _, _, queries, keys = members[0][2].shape
    reads_apart = "decoder_input_ids" in batch.arguments  # else cross attention runs from the text itself
    name = "decoder_attention_mask" if reads_apart and stack in ("decoder", "cross") else "attention_mask"
    keep = batch.arguments.get(name) if stack in ("", "text", "encoder", "decoder", "cross") else None
    keep = None if keep is None else keep.bool()
    offset = 0 if stack.endswith("cross") else keys - queries
    probes = [
        interp.Entropy(),
        interp.Peak(),
        interp.TopK(3),
        interp.KeyMass(GIVEN["weights"][:keys]),
        interp.LabelMatch(GIVEN["a"][:queries], GIVEN["b"][:keys]),
        interp.OffsetMass(GIVEN["offsets"]),
        interp.Distance(),
        interp.DistanceHistogram((0, 1, 4, 16)),
        interp.Received(),
        interp.Received(normalize=True, name="normalized"),
        interp.Pooled(GIVEN["block"], "mean"),
    ]
    capture = model.capture(batch, probes, [layer.key for layer, *_ in members])
    for layer, own, exact in members:
        found.check_far_from_uniform(layer, exact, keep)
        own_values = oracle.statistics(own, GIVEN, keep, offset)
        for name, value in oracle.statistics(exact, GIVEN, keep, offset).items():
            found.add(f"{name} of {layer.key}", capture[name][layer.key], own_values[name], value)
            if name in ("peak", "top_k"):
                index = capture[f"{name}_index"][layer.key].reshape(*exact.shape[:3], -1)
                at = exact.gather(-1, index.clamp(min=0)).where(index >= 0, 0.0).reshape(value.shape)
                found.add(f"{name}_index of {layer.key}", at.where(~value.isnan(), torch.nan), own_values[name], value)


def features_of(call: AttentionCall) -> set[str]:
    """What docs/models.md says of an architecture's attention."""
    mask, stack = call.mask, call.layer.stack
    said = {
        "cross attention": stack.endswith("cross"),
        "causal": mask.is_causal,
        "both ways": not mask.is_causal and not stack.endswith("cross") and not mask.predicates,
        "sliding window": mask.window is not None,
        "padding": mask.keep is not None,
        "rule evaluated tile by tile": bool(mask.predicates),
        "grouped heads": call.q.shape[1] != call.k.shape[1],
        "values of another width": call.q.shape[3] != call.v.shape[3],
        "soft cap": call.softcap is not None,
        "sink logits": call.sinks is not None,
        "bias": call.bias is not None,
    }
    return {feature for feature, holds in said.items() if holds}
