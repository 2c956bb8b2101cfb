"""docs/models.md, made from what the zoo's runs and the library's own configurations show."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import groupby

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from interp.errors import InputError
from interp.loading.load import check_config
from interp.naming import named_layers
from tests.interp.zoo.parity import Parity
from tests.interp.zoo.zoo import ZOO

HEAD = """# Architectures

Made by `python -m tests.interp.zoo > docs/models.md`; not to be edited.

Each architecture stands here with a tiny random model of its kind that ran through interp and through its own eager attention
on the same inputs, padding on both sides included where the model takes it. Parity means: its output, and entropy, peak, top-k,
key mass, label match, offset mass, distance, its histogram, received mass and pooled map of every layer that attends are as
close to float64 as the model's own float32 attention is, within twice its error and eight units in the last place. Layers are
named as in a capture; numbers that are missing belong to layers that do not attend.

```python
import torch
import transformers

import interp

sizes = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48, "vocab_size": 61}
model = interp.load(transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).eval())
capture = model.capture({"input_ids": torch.tensor([[7, 8, 9]]), "decoder_input_ids": torch.tensor([[0, 5]])})
assert model.layers == ("encoder.0", "encoder.1", "decoder.0", "decoder.1", "cross.0", "cross.1")
assert capture["entropy"]["cross.1"].shape == (1, 4, 2)  # batch, heads, tokens of the decoder
```
"""
TABLE = """
## {}

| model | layers | parity | attention |
|---|---|---|---|
"""
REFUSED = """
## Refused

`interp.load` says why, before any weights are read. Whatever is in neither list has not been tried; it is served if all of its
attention goes through transformers' AttentionInterface, and refused otherwise, at the latest when an input reaches what cannot
be watched. Of models with several towers, those of images or sound may be refused alone: text still runs. Vision towers that cut
their images into chunks (Qwen2-VL and its kin) take one image at a time, and none with windowed layers.

Attention beside the layers (the pooling head of SigLIP, mask heads, gates) is not measured; a capture's facts name it.

From the default configurations of transformers {}:

| model type | why |
|---|---|
"""
REASONS = {
    "computes attention in code of its own": "attention in code of its own",
    "has no attention to look at": "no attention",
    "has linear attention only": "linear attention only, which makes no map",
    "attends to keys that an indexer": "sparse: an indexer chooses the keys",
}


def row(found: Parity) -> str:
    """One architecture's line."""
    parity = "yes" if found.worst[0] <= 1 else "**no**"
    return f"| {found.entry.model} | {named_layers(found.layers)} | {parity} | {', '.join(sorted(found.features))} |"


def document(results: Iterable[Parity]) -> str:
    """The whole page."""
    text = HEAD
    for family, members in groupby(results, key=lambda found: found.entry.family):
        lines = dict.fromkeys(row(found) for found in members)
        text += TABLE.format(family) + "\n".join(lines) + "\n"
    lines = [f"| {name} | {why} |" for name, why in refusals()]
    return text + REFUSED.format(transformers.__version__) + "\n".join(lines) + "\n"


def refusals() -> list[tuple[str, str]]:
    """Model types whose default configuration is refused for its attention, and why."""
    found = []
    served = {entry.config for entry in ZOO}  # of some, the default configuration has no layer that attends
    for name, kind in sorted(CONFIG_MAPPING.items()):
        if kind.__name__ in served:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config = kind()
                check_config(config)
            except InputError as error:
                why = next((short for said, short in REASONS.items() if said in str(error)), _reach(str(error)))
                if why is not None:
                    found.append((name, why))
            except (AttributeError, ImportError, TypeError, ValueError, StrictDataclassError):
                continue  # of no default configuration, or of one for which the library has no class
    return found


def _reach(message: str) -> str | None:
    """What the message says that the architecture does, if it is out of reach; None where no model could be made."""
    said, cut, _ = message.partition(", which interp cannot follow yet")
    return said.partition(" (")[0].partition(" ")[2] if cut else None
