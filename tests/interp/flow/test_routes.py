"""Routes against the definition, written once more over dense maps and weights by name, in float64."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.flow.routes import Routes, routes
from tests.interp.tiny import COMMON, HEADS, token_ids
from tests.interp.zoo import oracle

Build = Callable[[str], PreTrainedModel]
T = 14


def seen_of(model: Any, name: str, ids: Tensor) -> list[dict[str, Tensor]]:
    """Of each layer: map [H, T, T], values [H, T, Dv], W_O [H, Dv, d], x, mid (None side by side) and out, in float64."""
    found: list[dict[str, Tensor]] = []
    handles = []
    blocks = {"llama": "model.layers", "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}[name]

    def keep(where: dict, key: str, pick: Callable[[Any, Any], Tensor]) -> Callable:
        def hook(module: Any, args: Any, output: Any) -> None:
            where[key] = pick(args, output if isinstance(output, Tensor) else output[0])[0]

        return hook

    for block in model.get_submodule(blocks):
        parts: dict[str, Tensor] = {}
        found.append(parts)
        reader = {"llama": "post_attention_layernorm", "gpt2": "ln_2"}.get(name)
        values = {"llama": "self_attn.v_proj", "gpt2": "attn.c_attn", "gpt_neox": "attention.query_key_value"}[name]
        output = {"llama": "self_attn.o_proj", "gpt2": "attn.c_proj", "gpt_neox": "attention.dense"}[name]
        mlp = block.mlp
        handles += [
            block.register_forward_hook(keep(parts, "out", lambda a, o: o)),
            block.register_forward_hook(keep(parts, "x", lambda a, o: a[0])),
            mlp.register_forward_hook(keep(parts, "mlp", lambda a, o: o)),
            block.get_submodule(values).register_forward_hook(keep(parts, "values", lambda a, o: o)),
        ]
        if reader:
            handles.append(block.get_submodule(reader).register_forward_hook(keep(parts, "mid", lambda a, o: a[0])))
        weight = block.get_submodule(output).weight.detach()
        parts["weight"] = (weight if name == "gpt2" else weight.T).unflatten(0, (HEADS, -1))
    with torch.no_grad(), oracle.listening(model) as maps:
        model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    for parts, p in zip(found, [maps[m][0] for m in model.modules() if maps.get(m)], strict=True):
        parts["map"] = p[0]
        v = parts["values"]
        if name == "llama":
            parts["values"] = v.unflatten(-1, (2, -1)).transpose(0, 1).repeat_interleave(2, dim=0)
        elif name == "gpt2":
            parts["values"] = v.chunk(3, dim=-1)[2].unflatten(-1, (HEADS, -1)).transpose(0, 1)
        else:
            parts["values"] = v.unflatten(-1, (HEADS, 3, -1))[:, :, 2].transpose(0, 1)
    return found


def shares(y: Tensor, parts: list[Tensor], threshold: float) -> list[float]:
    e = [max(float(y.abs().sum() - (y - p).abs().sum()), 1e-5) for p in parts]
    weights = [each / sum(e) for each in e]
    kept = [w if w > threshold or w == max(weights) else 0.0 for w in weights]
    return [w / sum(kept) for w in kept]


def by_definition(seen: list[dict[str, Tensor]], position: int, threshold: float) -> dict[tuple, float]:
    """Flow of every edge (kind, head, from stage, from position, to stage, to position)."""
    flow: defaultdict[tuple[int, int], float] = defaultdict(float)
    edges: dict[tuple, float] = {}
    flow[2 * len(seen), position] = 1.0
    for number in reversed(range(len(seen))):
        s = seen[number]
        after, mid, before = 2 * number + 2, 2 * number + 1, 2 * number

        def add(edge: tuple, share: float) -> None:
            if share > 0:
                amount = share * flow[edge[4:]]
                edges[edge] = amount
                flow[edge[2:4]] += amount

        target = mid if "mid" in s else after
        if "mid" in s:
            for at in sorted(i for stage, i in flow if stage == after):
                for kind, share in zip(
                    ("residual", "mlp"), shares(s["out"][at], [s["mid"][at], s["mlp"][at]], threshold), strict=True
                ):
                    add((kind, "", mid, at, after, at), share)
        for at in sorted(i for stage, i in flow if stage == target):
            named = [("residual", "", at)] + ([] if "mid" in s else [("mlp", "", at)])
            parts = [s["x"][at]] + ([] if "mid" in s else [s["mlp"][at]])
            for head in range(HEADS):
                for key in range(at + 1):
                    named.append(("attention", f"L{number}H{head}", key))
                    parts.append(s["map"][head, at, key] * (s["values"][head, key] @ s["weight"][head]))
            y = (s["mid"] if "mid" in s else s["out"])[at]
            for (kind, head, source), share in zip(named, shares(y, parts, threshold), strict=True):
                add((kind, head, before, source, target, at), share)
    return edges


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(("position", "threshold"), [(-1, 0.04), (5, 0.01)])
def test_routes_are_their_definition(name: str, position: int, threshold: float, own_model: Build, eager_model: Build):
    ids = token_ids((1, T), seed=4)
    found = routes(interp.load(own_model(name)), ids, position, threshold=threshold)
    exact = by_definition(seen_of(eager_model(name), name, ids), position % T, threshold)
    columns = ["kind", "head", "from_stage", "from_position", "to_stage", "to_position"]
    got = {tuple(row[:6]): row[6] for row in found.edges[[*columns, "flow"]].itertuples(index=False)}
    assert got.keys() == exact.keys()
    # Shares are of norms of float32 activations, whose parts cancel to a few percent of them.
    assert max(abs(got[edge] - exact[edge]) for edge in got) < 1e-4
    assert sum(kind == "attention" for kind, *_ in got) > 5


def test_flows_of_each_stage_sum_to_one_and_weights_of_each_node_too(own_model: Build):
    found = routes(interp.load(own_model("llama")), token_ids((1, T)))
    np.testing.assert_allclose(found.nodes.groupby("stage")["flow"].sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(found.edges.groupby(["to_stage", "to_position"])["weight"].sum(), 1.0, rtol=1e-12)
    assert found.nodes["stage"].nunique() == 5
    assert found.inputs()["flow"].sum() == pytest.approx(1)
    assert found.heads()["flow"].is_monotonic_decreasing


def test_chunks_of_parts_change_nothing(own_model: Build, monkeypatch: pytest.MonkeyPatch):
    model = interp.load(own_model("llama"))
    whole = routes(model, token_ids((1, T))).to_frame()
    # By its module: interp.flow.routes is the function.
    monkeypatch.setattr(sys.modules[routes.__module__], "PART_NUMBERS", 3 * HEADS * 32)
    chunked = routes(model, token_ids((1, T))).to_frame()
    np.testing.assert_allclose(chunked["flow"], whole["flow"], rtol=1e-6)
    assert chunked.drop(columns=["flow", "weight"]).equals(whole.drop(columns=["flow", "weight"]))


def test_one_token_comes_from_itself(own_model: Build):
    found = routes(interp.load(own_model("llama")), [[5]])
    assert found.inputs()[["position", "flow"]].to_numpy().tolist() == [[0, pytest.approx(1)]]


def test_edits_of_maps_are_followed_and_edits_of_outputs_are_refused(own_model: Build):
    model = interp.load(own_model("llama"))
    with model.edited(interp.edits.cut(keys=slice(0, 13))):
        found = routes(model, token_ids((1, T)))
    assert set(found.nodes["position"]) == {13}
    for edit in (interp.edits.ablate("L1H0"), interp.edits.scale("L1H0", factor=0.5)):
        with (
            model.edited(edit),
            pytest.raises(InputError, match="layer 1: an edit in force changes what its heads give"),
        ):
            routes(model, token_ids((1, T)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": [[5, 6], [7, 8]]}, "inputs: expected one sequence of tokens without padding"),
        ({"position": 3}, "position: expected an integer from -3 to 2, got 3"),
        ({"position": "last"}, "position: expected an integer from -3 to 2, got 'last'"),
        ({"threshold": 1.0}, "threshold: expected a number from 0 and below 1, got 1.0"),
        ({"floor": 0.0}, "floor: expected a number above 0 and below 1, got 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, message: str, own_model: Build):
    with pytest.raises(InputError, match=message):
        routes(interp.load(own_model("llama")), **{"inputs": [[5, 6, 7]], **given})


@pytest.mark.parametrize("name", ["gemma2", "bert"])
def test_norms_behind_the_attention_are_refused(name: str, own_model: Build):
    with pytest.raises(
        InputError, match="layer 0: the parts of the residual stream cannot be told, for what its attention gives"
    ):
        routes(interp.load(own_model(name)), [[5, 6, 7]])


def test_factors_behind_the_attention_are_refused():
    import transformers

    config = transformers.GraniteConfig(
        **COMMON,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        residual_multiplier=0.5,
    )
    with pytest.raises(InputError, match="does not enter the stream as it is"):
        routes(interp.load(transformers.GraniteForCausalLM(config).eval()), [[5, 6, 7]])


def test_it_is_kept_exported_and_drawn(own_model: Build, tmp_path: Path):
    import networkx

    found = routes(interp.load(own_model("llama")), token_ids((1, T)))
    back = Routes.load(found.save(tmp_path / "kept"))
    assert back.edges.equals(found.edges)
    assert repr(back) == repr(found)
    graph = networkx.read_graphml(found.to_graphml(tmp_path / "routes.graphml"), force_multigraph=True)
    assert graph.number_of_nodes() == len(found.nodes)
    assert sum(data["edge_flow"] for *_, data in graph.edges(data=True)) == pytest.approx(found.edges["flow"].sum())
    content = json.loads(found.to_json(tmp_path / "routes.json").read_text("utf-8"))
    assert len(content["edges"]) == len(found.edges)
    with pytest.raises(InputError, match=r"cannot write .*: No such file or directory; give a file in a folder"):
        found.to_json(tmp_path / "nowhere" / "routes.json")
    figure = found.plot()
    drawn = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(drawn) == len(
        found.edges.drop_duplicates(["kind", "from_stage", "from_position", "to_stage", "to_position"])
    )


def test_hostile_tokens_stay_text(own_model: Build, tmp_path: Path):
    import networkx

    found = routes(interp.load(own_model("llama")), token_ids((1, 3)))
    hostile = '</data><node id="x"/><img src=x onerror=alert(1)>\x00'
    nodes = found.nodes.assign(token=hostile)
    other = Routes(
        settings=found.settings, edges=found.edges, nodes=nodes, tokens=(hostile,) * 3, position=2, blocks=found.blocks
    )
    graph = networkx.read_graphml(other.to_graphml(tmp_path / "routes.graphml"), force_multigraph=True)
    assert graph.number_of_nodes() == len(nodes)
    assert {data["token"] for _, data in graph.nodes(data=True)} == {hostile[:-1]}
    figure = other.plot()
    assert not any(
        "<img" in str(text) for trace in figure.data for text in (trace.text if trace.text is not None else ())
    )
    assert not any("<img" in text for text in figure.layout.xaxis.ticktext)


def test_the_demo_model_fetches_a_digit_through_its_induction_heads():
    text = "The secret number of Clara is 48213. The lamp was out. The secret number of Clara is 482"
    found = routes(interp.load("demo"), text)
    heads = found.heads().set_index("head")["flow"]
    of_layer_2 = heads[[name for name in heads.index if name.startswith("L2")]]
    assert set(of_layer_2.head(4).index) == {"L2H2", "L2H3", "L2H4", "L2H5"}
    # From the token after the earlier "2": the 1 of 48213.
    into = found.edges.query("kind == 'attention' and head in ['L2H2', 'L2H3', 'L2H4', 'L2H5']")
    strongest = into.groupby("from_position")["flow"].sum().idxmax()
    assert found.tokens[strongest] == "1"
