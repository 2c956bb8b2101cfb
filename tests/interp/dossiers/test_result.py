"""Dossiers as a result: edges against dense maps, one head's view, the folder that a run goes on from, files and JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

import interp
from interp.dossiers import HeadDossiers, collect
from interp.dossiers.passages import PART_TOKENS
from interp.errors import InputError
from interp.models.hooked import HookedModel
from tests.interp.command import Command
from tests.interp.conftest import Build
from tests.interp.dense import eager_maps
from tests.interp.tiny import ARCHITECTURES, HEADS, LAYERS, token_ids
from tests.interp.words import text_of, words_tokenizer

TABLES = ("metrics", "histograms", "distance", "tokens", "passages", "shown", "edges")


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.load(ARCHITECTURES["llama"].build(), tokenizer=words_tokenizer())


def texts(count: int = 14) -> list[str]:
    return [text_of(token_ids((12 + 3 * (n % 2),), seed=n)) for n in range(count)]


@pytest.fixture(scope="module")
def dossiers(model: HookedModel) -> HeadDossiers:
    return interp.head_dossiers(model, texts(), by="entropy", strongest=3, samples=2, top=3, least=0.05, progress=False)


def test_edges_are_the_strongest_of_the_dense_map(dossiers: HeadDossiers, eager_model: Build) -> None:
    import torch

    checked = 0
    for layer in range(LAYERS):
        for head in range(HEADS):
            for passage in dossiers.head(layer, head).passages:
                ids = torch.from_numpy(passage.ids.astype(np.int64))[None]
                a = eager_maps(eager_model("llama"), ids, torch.ones_like(ids, dtype=torch.bool))[layer][
                    0, head
                ].numpy()
                for query, rows in passage.edges.groupby("query"):
                    best = np.sort(a[query])[::-1][:3]
                    best = best[best >= 0.05]
                    np.testing.assert_allclose(rows["weight"], best[: len(rows)], atol=2e-5)
                    np.testing.assert_allclose(a[query, rows["key"]], rows["weight"], atol=2e-5)
                    assert abs(len(rows) - len(best)) <= (np.abs(best - 0.05) < 2e-5).sum()
                    checked += 1
    assert checked > 500


def test_shown_values_are_the_metric_of_their_passage(dossiers: HeadDossiers, model: HookedModel) -> None:
    for head in ("L0H1", "L1H3"):
        dossier = dossiers.head(head)
        for passage in dossier.passages:
            alone = interp.head_dossiers(model, [passage.ids.tolist()], strongest=1, samples=0, progress=False)
            assert alone.head(head).metric("entropy") == pytest.approx(passage.value, abs=1e-5)


def test_groups_are_the_strongest_and_five_fifths(dossiers: HeadDossiers) -> None:
    dossier = dossiers.head(1, 2)
    groups = [(passage.group, passage.rank) for passage in dossier.passages]
    fifths = [(f"fifth {n} of 5", rank) for n in range(1, 6) for rank in range(2)]
    assert groups == [("strongest", 0), ("strongest", 1), ("strongest", 2), *fifths]
    strongest = [passage.value for passage in dossier.group("strongest")]
    assert strongest == sorted(strongest, reverse=True)
    lowest, highest = (max(p.value for p in dossier.group(f"fifth {n} of 5")) for n in (1, 5))
    assert lowest < highest


def test_histograms_count_every_passage_once(dossiers: HeadDossiers) -> None:
    for dossier in dossiers:
        for metric in dossier.metrics.to_dict("records"):
            assert dossier.histogram(metric["metric"])["count"].sum() == metric["passages"]


def test_the_strongest_link_leads_to_another_token_than_the_first(dossiers: HeadDossiers) -> None:
    for passage in dossiers.head(0, 0).passages:
        found = passage.strongest
        if found is not None:
            query, key, weight = found
            assert key not in (0, query)
            first = passage.edges.drop_duplicates("query")
            away = first[(first["key"] != 0) & (first["key"] != first["query"])]
            assert weight == away["weight"].max()


def test_unknown_heads_metrics_and_groups_are_named(dossiers: HeadDossiers) -> None:
    with pytest.raises(InputError, match="head 'L9H0': layer 9 does not exist; the layers are 0 to 1"):
        dossiers.head("L9H0")
    with pytest.raises(InputError, match="no metric 'inductoin'; "):
        dossiers.of("inductoin")
    dossier = dossiers.head("L0H0")
    with pytest.raises(InputError, match=r"no metric 'entropi'; did you mean 'entropy'?"):
        dossier.metric("entropi")
    with pytest.raises(InputError, match=r"no passages 'fifth 6 of 5'; did you mean 'fifth 5 of 5'?"):
        dossier.group("fifth 6 of 5")
    with pytest.raises(InputError, match=r"side: unknown 'keys'; did you mean 'key'?"):
        dossier.leading("keys")  # pyright: ignore[reportArgumentType]


def test_what_is_saved_is_read_back_equal(dossiers: HeadDossiers, tmp_path: Path) -> None:
    dossiers.save(tmp_path / "kept")
    again = interp.load_dossiers(tmp_path / "kept")
    for name in TABLES:
        ours, theirs = getattr(dossiers, name), getattr(again, name)
        if name == "passages":
            ours, theirs = (x.assign(ids=x["ids"].map(list), tokens=x["tokens"].map(list)) for x in (ours, theirs))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    assert (again.layers, again.heads, again.by, again.settings) == (
        dossiers.layers,
        dossiers.heads,
        dossiers.by,
        dossiers.settings,
    )


def test_json_holds_a_file_a_head_with_the_numbers_of_the_tables(dossiers: HeadDossiers, tmp_path: Path) -> None:
    index = json.loads(dossiers.save_json(tmp_path / "json").read_text(encoding="utf-8"))
    assert (index["format"], index["version"], len(index["heads"])) == ("interp.head_dossiers_index", 1, LAYERS * HEADS)
    content = json.loads((tmp_path / "json" / index["heads"]["L1H2"]).read_text(encoding="utf-8"))
    dossier = dossiers.head("L1H2")
    assert set(content) == {
        "format", "version", "model", "head", "layer", "number", "metrics", "histogram", "distance", "tokens", "passages",
    }  # fmt: skip
    by_name = {each["name"]: each for each in content["metrics"]}
    assert by_name["entropy"]["value"] == dossier.metric("entropy")
    assert by_name["strongest"]["chance"] is None
    assert sum(content["histogram"]["counts"]) == 14
    assert len(content["histogram"]["edges"]) == len(content["histogram"]["counts"]) + 1
    passage = content["passages"][0]
    assert len(passage["ids"]) == len(passage["tokens"])
    assert [edge[:2] for edge in passage["edges"]] == dossier.passages[0].edges[["query", "key"]].to_numpy().tolist()
    with pytest.raises(InputError, match="already holds a set of head dossiers"):
        dossiers.save_json(tmp_path / "json")


def test_an_index_of_before_does_not_make_half_written_heads_look_whole(
    dossiers: HeadDossiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.dossiers import export
    from interp.folders import WriteError

    index = dossiers.save_json(tmp_path)
    plain, written = export.write_together, []

    def write_together(*args, **given):
        written.append(1)
        if len(written) == 3:
            raise WriteError("no space left")
        plain(*args, **given)

    monkeypatch.setattr(export, "write_together", write_together)
    with pytest.raises(WriteError):
        dossiers.save_json(tmp_path, overwrite=True)
    assert not index.exists()
    monkeypatch.undo()
    assert dossiers.save_json(tmp_path, overwrite=True).exists()


def test_figures_show_the_tables(dossiers: HeadDossiers) -> None:
    dossier = dossiers.head("L1H1")
    passages, distance, chance = dossier.plot().data
    np.testing.assert_array_equal(passages.y, dossier.histogram()["count"])
    np.testing.assert_allclose(distance.y, dossier.distance["mass"])
    np.testing.assert_allclose(chance.y, dossier.distance["chance"])
    points = dossiers.plot("entropy", "previous_token").data[0]
    assert len(points.x) == len(dossiers)
    with pytest.raises(InputError, match="no metric 'x'"):
        dossiers.plot("x")


def same(first: HeadDossiers, second: HeadDossiers) -> bool:
    return all(
        getattr(first, name).astype(str).equals(getattr(second, name).astype(str))
        for name in TABLES
        if name != "passages"
    ) and [list(ids) for ids in first.passages["ids"]] == [list(ids) for ids in second.passages["ids"]]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.dossiers import passages

    assert PART_TOKENS > 10_000
    monkeypatch.setattr(passages, "PART_TOKENS", 64)


@pytest.mark.usefixtures("small_parts")
def test_a_run_that_is_killed_goes_on_where_it_was(
    model: HookedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"strongest": 2, "samples": 1, "progress": False}
    undisturbed = interp.head_dossiers(model, texts(), **options)
    measure_part = collect.measure_part
    done: list[int] = []

    def killed(*args, **given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return measure_part(*args, **given)

    monkeypatch.setattr(collect, "measure_part", killed)
    with pytest.raises(KeyboardInterrupt):
        interp.head_dossiers(model, texts(), folder=tmp_path / "run", **options)
    assert sorted(path.name for path in (tmp_path / "run" / "parts").iterdir()) == ["00000", "00001"]
    # As if it had been killed while the third was written: its last file is missing.
    (tmp_path / "run" / "parts" / "00002").mkdir()
    (tmp_path / "run" / "parts" / "00002" / "moments.parquet").write_bytes(b"half")
    measured: list[int] = []

    def counted(*args, **given):
        measured.append(1)
        return measure_part(*args, **given)

    monkeypatch.setattr(collect, "measure_part", counted)
    again = interp.head_dossiers(model, texts(), folder=tmp_path / "run", **options)
    assert len(measured) == len(list((tmp_path / "run" / "parts").iterdir())) - 2
    assert same(again, undisturbed)
    measured.clear()
    assert same(interp.head_dossiers(model, texts(), folder=tmp_path / "run", **options), undisturbed)
    assert measured == []


@pytest.mark.usefixtures("small_parts")
def test_a_folder_of_another_run_is_refused(model: HookedModel, tmp_path: Path) -> None:
    options = {"strongest": 2, "samples": 1, "progress": False}
    interp.head_dossiers(model, texts(6), folder=tmp_path, **options)
    with pytest.raises(InputError, match=r"holds parts of another run \(settings.seed: 0 there, 1 asked for\)"):
        interp.head_dossiers(model, texts(6), folder=tmp_path, seed=1, **options)
    with pytest.raises(InputError, match="was measured on other passages; give the same ones in the same order"):
        interp.head_dossiers(model, texts(6)[::-1], folder=tmp_path, **options)
    run = tmp_path / "run.json"
    content = json.loads(run.read_text("utf-8"))
    # What only draws or stores may change between two runs.
    assert set(content["versions"]) <= {"interp", "torch", "transformers", "tokenizers", "numba", "triton"}
    assert "plotly" not in run.read_text("utf-8")
    run.write_text(json.dumps({**content, "versions": {**content["versions"], "torch": "1.0"}}), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"begun with other versions \(torch 1\.0 there, .* here\).* install these and go on, or"
    ):
        interp.head_dossiers(model, texts(6), folder=tmp_path, **options)
    run.write_text(json.dumps({**content, "format": "interp.dossier_run.1"}), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"has the format 'interp\.dossier_run\.1', .* finish the run with the interp that began it"
    ):
        interp.head_dossiers(model, texts(6), folder=tmp_path, **options)
    run.write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "parts" / "00000" / "kept.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"00000 cannot be read .* delete it, and that part is measured again"):
        interp.head_dossiers(model, texts(6), folder=tmp_path, **options)


def test_report_writes_the_page_of_stored_dossiers(dossiers: HeadDossiers, tmp_path: Path, command: Command) -> None:
    dossiers.save(tmp_path / "kept")
    ran = command("report", tmp_path / "kept")
    assert ran.code == 0
    page = (tmp_path / "kept" / "report.html").read_text(encoding="utf-8")
    assert all(f'<section id="{dossier.name}">' in page for dossier in dossiers)
    (tmp_path / "kept" / "edges.parquet").write_bytes(b"other")
    assert "does not belong to result.json beside it" in command("report", tmp_path / "kept").refused()


def test_a_report_of_many_heads_takes_those_that_lead(dossiers: HeadDossiers, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.dossiers import html

    monkeypatch.setattr(html, "MOST_HEADS", 3)
    page = dossiers.report()
    best = dossiers.of("induction_text").iloc[0]
    assert f'<section id="L{best["layer"]}H{best["head"]}">' in page
    assert page.count('<section id="L') == 3
    assert "5 of 8 heads have no section here" in page
    assert dossiers.report("L0H2").count('<section id="L') == 1


def test_summary_names_the_leading_heads(dossiers: HeadDossiers) -> None:
    best = dossiers.of("previous_token").iloc[0]
    assert "14 passages, 203 tokens; 8 heads" in dossiers.summary()
    assert f"previous_token    L{best['layer']}H{best['head']}" in dossiers.summary()
    assert "L0H0: strongest" in repr(dossiers.head("L0H0"))
    assert not math.isnan(dossiers.head("L0H0").metric("strongest"))


def test_tokens_are_readable(dossiers: HeadDossiers, tokenizer: PreTrainedTokenizerFast) -> None:
    passage = dossiers.head("L0H0").passages[0]
    assert list(passage.tokens) == [tokenizer.decode([i]) for i in passage.ids]
    rows = dossiers.head("L0H0").leading("key")
    assert rows["token"].tolist() == [f"w{i}" for i in rows["id"]]
