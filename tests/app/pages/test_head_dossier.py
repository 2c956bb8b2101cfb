"""The head's dossier on its page: over the prose, stored ones, what is refused; and in real Chromium, with hostile tokens."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import interp
from interp.batch import make_plan, open_store, run_batch
from interp.dossiers import METRICS, HeadDossiers
from interp.errors import InputError
from interp.results.store import CONTENT
from interp.views.token_text import shown
from interp_app.jobs import Failed, Pending
from interp_app.pages import head_dossier
from interp_app.panels import answer
from interp_app.settings import AppSettings
from interp_app.stored import listed_dossiers, opened_dossiers
from interp_app.view import PROSE, View
from interp_app.workspace import Workspace
from tests.app.conftest import Served, serving
from tests.app.pages.heads import drawn, sent_as, words
from tests.app.ready import ready
from tests.interp.views.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Halves of surrogate pairs are in no column of text.
TOKENS = [token for token in HOSTILE if token.isascii() or token.encode(errors="ignore").decode() == token]
HEAD = View(head="L2H5")


@pytest.fixture(scope="module")
def dossiers(workspace: Workspace) -> HeadDossiers:
    """Over eight pieces of the prose."""
    texts = [workspace.texts.prose[start : start + 200] for start in range(0, 1600, 200)]
    return interp.head_dossiers(workspace.loaded("demo"), texts, strongest=3, samples=1, progress=False)


@pytest.fixture(scope="module")
def folder(dossiers: HeadDossiers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored: "plain", and "hostile", an older one whose tokens try to be something else than text."""
    folder = tmp_path_factory.mktemp("stored")

    def hostile(number: int) -> str:
        return TOKENS[int(number) % len(TOKENS)]

    replace(
        dossiers,
        passages=dossiers.passages.assign(
            tokens=pd.Series([[hostile(i) for i in ids] for ids in dossiers.passages["ids"]])
        ),
        tokens=dossiers.tokens.assign(token=dossiers.tokens["id"].map(hostile)),
    ).save(folder / "hostile")
    dossiers.save(folder / "plain")
    os.utime(folder / "hostile" / CONTENT, (10**9, 10**9))
    return folder


@pytest.fixture(scope="module")
def stored(folder: Path) -> Iterator[Workspace]:
    """A workspace with that folder."""
    made = Workspace(AppSettings(scans=folder))
    yield made
    made.close()


# ------------------------------------------------------------------------------------------------ what is shown


def test_without_stored_dossiers_those_of_the_prose_are_measured(workspace: Workspace):
    said = words(drawn(workspace, head_dossier.DOSSIER, HEAD))
    found = interp.head_dossiers(workspace.loaded("demo"), [workspace.texts.prose], length=128, progress=False)
    pd.testing.assert_frame_equal(head_dossier.table(workspace, HEAD), found.head("L2H5").metrics)
    assert f"the built-in prose in passages of 128 tokens: {found.settings['inputs']['passages']} passages" in said
    assert "These are few" in said


def test_the_text_of_the_page_changes_nothing(workspace: Workspace, passage: View):
    ready(lambda: workspace.dossiers(HEAD))
    assert workspace.dossiers(passage) is workspace.dossiers(HEAD)  # nothing is made anew


def test_the_newest_stored_dossiers_are_shown_with_what_each_metric_is(stored: Workspace, dossiers: HeadDossiers):
    said = words(drawn(stored, head_dossier.DOSSIER, HEAD))
    assert "L2H5 over the corpus of plain: 8 passages" in said
    for metric in METRICS:
        assert f"{dossiers.head('L2H5').metric(metric.name):.3g}" in said
        assert metric.definition in said
    for side in ("query", "key"):
        for token in dossiers.head("L2H5").leading(side).head(head_dossier.TOKENS)["token"]:
            assert shown(str(token)).replace("\n", "") in said
    parts = drawn(stored, head_dossier.DOSSIER, HEAD)
    store = next(part for part in parts if getattr(part, "id", None) == "dossier-data")
    titles = [each["title"] for each in store.data["passages"]]
    assert titles == [f"strongest, {n}" for n in (1, 2, 3)] + [f"fifth {n} of 5, 1" for n in (1, 2, 3, 4, 5)]


def test_an_address_chooses_among_stored_ones_and_the_prose(stored: Workspace):
    assert "corpus of hostile" in words(drawn(stored, head_dossier.DOSSIER, HEAD.but(dossier="hostile")))
    assert "the built-in prose" in words(drawn(stored, head_dossier.DOSSIER, HEAD.but(dossier=PROSE)))
    (select,) = head_dossier.controls(stored, HEAD)
    assert select.value == "plain"
    assert [each["value"] if isinstance(each, dict) else each for each in select.data] == ["plain", "hostile", PROSE]
    assert View.of_search(HEAD.but(dossier=PROSE).to_search()).dossier == PROSE


def test_without_stored_ones_there_is_nothing_to_choose(workspace: Workspace):
    ready(lambda: workspace.model(HEAD))
    assert head_dossier.controls(workspace, HEAD) == []


def test_hostile_tokens_are_sent_as_text(stored: Workspace):
    parts = drawn(stored, head_dossier.DOSSIER, HEAD.but(dossier="hostile"))
    sent = json.loads(sent_as([part for part in parts if getattr(part, "id", None) != "dossier-data"]))
    # Whole strings of plain components: nothing of them is markup to the page.
    types = {each["type"] for each in _components(sent)}
    assert types.isdisjoint({"Markdown", "DangerouslySetInnerHTML", "Script", "Iframe"})
    assert "dangerously" not in json.dumps(sent)


def test_the_python_of_stored_dossiers_opens_them(stored: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch):
    code = ready(lambda: head_dossier.python(stored, HEAD.but(dossier="hostile")))
    monkeypatch.chdir(folder)
    *lines, last = code.strip().splitlines()
    space: dict[str, object] = {}
    exec("\n".join(lines), space)  # noqa: S102 - it is what people are told to run
    assert eval(last, space).name == "L2H5"  # noqa: S307


# ------------------------------------------------------------------------------------------------ the folder


def test_only_dossiers_of_the_model_are_listed(folder: Path, tmp_path: Path, dossiers: HeadDossiers):
    assert listed_dossiers(folder, "demo") == {"plain": "plain", "hostile": "hostile"}
    assert listed_dossiers(folder, "other") == {}
    assert listed_dossiers(tmp_path / "nowhere", "demo") == {}
    dossiers.save(tmp_path / "good")
    for name, content in (("broken", "{"), ("other", '{"kind": "flow"}'), ("list", "[]"), ("deep", "[" * 100_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONTENT).write_text(content, encoding="utf-8")
    (tmp_path / "bad name").symlink_to(folder / "plain")
    (tmp_path / "link").symlink_to(folder / "plain")
    assert list(listed_dossiers(tmp_path, "demo")) == ["good"]


@pytest.fixture(scope="module")
def batch(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scans with the store of a batch: the demo model's dossiers over two documents."""
    folder = tmp_path_factory.mktemp("batches")
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(workspace.texts.prose[:900] + name, encoding="utf-8")
    plan = make_plan(
        kind="dossiers",
        models=["demo"],
        texts=[str(folder / "*.txt")],
        output=folder / "nightly",
        dossiers={"length": 64, "strongest": 2, "samples": 1, "pool": 10},
    )
    assert run_batch(plan, progress=False).is_complete
    return folder


def test_dossiers_in_the_store_of_a_batch_are_listed_and_shown(batch: Path, monkeypatch: pytest.MonkeyPatch):
    workspace = Workspace(AppSettings(scans=batch))
    try:
        ((name, told),) = listed_dossiers(batch, "demo").items()
        assert told == "nightly, demo"
        assert name.startswith("nightly:")
        assert View.of_search(HEAD.but(dossier=name).to_search()).dossier == name
        expected = open_store(batch / "nightly").dossiers()
        pd.testing.assert_frame_equal(opened_dossiers(batch, name).metrics, expected.metrics)
        assert "L2H5 over the corpus of nightly, demo: " in words(drawn(workspace, head_dossier.DOSSIER, HEAD))
        (select,) = head_dossier.controls(workspace, HEAD)
        assert select.value == name
        monkeypatch.chdir(batch)
        *lines, last = ready(lambda: head_dossier.python(workspace, HEAD)).strip().splitlines()
        space: dict[str, object] = {}
        exec("\n".join(lines), space)  # noqa: S102 - it is what people are told to run
        assert eval(last, space).name == "L2H5"  # noqa: S307
    finally:
        workspace.close()


def test_links_in_a_store_are_not_followed_and_damage_is_named_without_the_folder(batch: Path, tmp_path: Path):
    shutil.copytree(batch / "nightly", tmp_path / "nightly")
    (name,) = listed_dossiers(tmp_path, "demo")
    shard = next((tmp_path / "nightly" / "shards").glob(f"{name.partition(':')[2]}*"))
    (shard / "edges.parquet").unlink()
    (shard / "edges.parquet").symlink_to(next((batch / "nightly" / "shards").glob(f"{shard.name}/edges.parquet")))
    with pytest.raises(InputError, match=f"the stored dossiers '{name}' hold a link, which is not followed"):
        opened_dossiers(tmp_path, name)
    (shard / "edges.parquet").unlink()
    (shard / "edges.parquet").write_bytes(b"other")
    with pytest.raises(InputError, match="a shard cannot be read") as found:
        opened_dossiers(tmp_path, name)
    assert str(tmp_path) not in str(found.value)
    shutil.rmtree(tmp_path / "nightly" / "shards")
    assert listed_dossiers(tmp_path, "demo") == {}
    (tmp_path / "nightly" / "manifest.json").write_text("{", encoding="utf-8")
    assert listed_dossiers(tmp_path, "demo") == {}


@pytest.mark.parametrize("name", ["nightly:", "nightly:z", "nightly:../..", "nightly:*", "other:0", ":prose"])
def test_a_name_that_is_none_of_a_store_is_refused(batch: Path, name: str):
    with pytest.raises(InputError, match="there is no stored set of head dossiers"):
        opened_dossiers(batch, name)


@pytest.mark.parametrize("name", ["..", "../plain", "a/b", "nothing", "plain\0"])
def test_a_name_that_is_none_of_them_is_refused(folder: Path, name: str):
    with pytest.raises(InputError, match="there is no stored set of head dossiers"):
        opened_dossiers(folder, name)


def test_an_address_of_dossiers_that_are_not_there_says_so(stored: Workspace):
    with pytest.raises(InputError, match="there are no stored dossiers 'gone' of this model in the server's folder"):
        ready(lambda: head_dossier.DOSSIER.draw(stored, HEAD.but(dossier="gone")))


def test_damaged_dossiers_are_named_without_the_servers_folder(tmp_path: Path, dossiers: HeadDossiers):
    dossiers.save(tmp_path / "damaged")
    (tmp_path / "damaged" / "edges.parquet").write_bytes(b"other")
    with pytest.raises(InputError) as found:
        opened_dossiers(tmp_path, "damaged")
    assert "damaged" in str(found.value)
    assert str(tmp_path) not in str(found.value)


def test_what_is_written_anew_under_a_name_is_read_anew(tmp_path: Path, dossiers: HeadDossiers):
    workspace = Workspace(AppSettings(scans=tmp_path))
    try:
        dossiers.save(tmp_path / "one")
        assert len(ready(lambda: workspace.dossiers(HEAD)).head("L0H0").group("strongest")) == 3
        replace(dossiers, shown=dossiers.shown[dossiers.shown["rank"] == 0]).save(tmp_path / "one", overwrite=True)
        assert len(ready(lambda: workspace.dossiers(HEAD)).head("L0H0").group("strongest")) == 1
    finally:
        workspace.close()


def test_measuring_can_be_cancelled_and_begun_again(tmp_path: Path):
    workspace = Workspace(AppSettings(scans=tmp_path))
    try:
        ready(lambda: workspace.model(HEAD))
        with pytest.raises(Pending) as pending:
            workspace.dossiers(HEAD)
        body, _, job, busy = answer(workspace, head_dossier.DOSSIER, HEAD.to_dict(), {})
        assert (job, busy) == (pending.value.job.id, "true")
        assert "Cancel" in words(body)
        workspace.jobs.cancel_id(job)
        with pytest.raises(Failed) as failed:
            ready(lambda: workspace.dossiers(HEAD))
        assert failed.value.was_cancelled
        workspace.jobs.forget(failed.value.key)
        assert len(ready(lambda: workspace.dossiers(HEAD))) == 24
    finally:
        workspace.close()


def _components(sent: object) -> Iterator[dict]:
    if isinstance(sent, dict):
        if {"type", "props", "namespace"} <= sent.keys():
            yield sent
        for each in sent.values():
            yield from _components(each)
    elif isinstance(sent, list):
        for each in sent:
            yield from _components(each)


# ------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def server(stored: Workspace) -> Iterator[Served]:
    ready(lambda: stored.dossiers(HEAD))
    with serving(stored) as running:
        yield running


@pytest.fixture(scope="module")
def page(server: Served, chromium: Browser) -> Iterator[Page]:
    """The dossier with hostile tokens. What the console complains of fails the module's last test."""
    said: list[str] = []
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{server.address}/head?head=L2H5&dossier=hostile")
    page.wait_for_selector("#dossier-place .ipd-token")
    yield page
    context.close()
    assert said == []


def test_hostile_tokens_are_text_on_the_page(page: Page, stored: Workspace):
    passages = stored.dossiers(HEAD.but(dossier="hostile")).head("L2H5").passages
    drawn_passages = page.locator("#dossier-place .ipd-passage")
    assert drawn_passages.count() == 8
    texts = drawn_passages.first.locator(".ipd-token").all_text_contents()
    assert texts == [shown(token).replace("\n", "") for token in passages[0].tokens][: len(texts)]
    assert page.locator("#dossier-place img, #dossier-place script, [aria-label='Over a corpus'] img").count() == 0


def test_hovering_and_keys_name_the_links(page: Page):
    drawn_passage = page.locator("#dossier-place .ipd-passage").first
    tokens, line = drawn_passage.locator(".ipd-token"), drawn_passage.locator(".ipd-line")
    tokens.nth(5).hover()
    assert line.inner_text().startswith("5 “")
    # Tab reaches one token of a passage; the arrow keys go on from there.
    tokens.first.focus()
    assert drawn_passage.locator(".ipd-token[tabindex='0']").count() == 1
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert tokens.nth(1).get_attribute("aria-pressed") == "true"
    assert line.inner_text().startswith("1 “")
    page.keyboard.press("Escape")
    assert tokens.nth(1).get_attribute("aria-pressed") == "false"


def test_another_head_is_another_dossier_and_dark_is_dark(page: Page):
    page.evaluate("() => window.interp.change({ head: 'L1H5', dossier: '' })")
    page.wait_for_function(
        "() => document.querySelector('[aria-label=\"Over a corpus\"]').textContent.includes('L1H5 over the corpus of plain')"
    )
    page.wait_for_selector("#dossier-place .ipd-token")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => document.documentElement.dataset.mantineColorScheme === 'dark'")
    page.wait_for_function(
        "() => getComputedStyle(document.querySelector('.ipd-passage')).backgroundColor === 'rgb(26, 29, 35)'"
    )
    page.wait_for_selector("#dossier-place .ipd-token")
