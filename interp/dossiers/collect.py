"""Head dossiers of a whole corpus: parts measured one after the other, put together, and what is shown run once more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.dossiers.edges import edges_of
from interp.dossiers.folder import RunFolder
from interp.dossiers.measure import check_model, measure_part
from interp.dossiers.part import Part, merge
from interp.dossiers.passages import checksum, parts_of, passages_of
from interp.dossiers.result import HeadDossiers
from interp.dossiers.sampling import FIFTHS, quintile_error
from interp.dossiers.settings import DossierSettings
from interp.dossiers.tables import (
    ShownRow,
    distance_table,
    histogram_table,
    metrics_table,
    passages_table,
    tokens_table,
)
from interp.errors import InputError
from interp.progress import Bar
from interp.results.settings import settings_of

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

METHOD = (
    "mean over passages of each metric (see interp.dossiers.METRICS), chance: the same under uniform attention over the visible "
    "keys; passages ranked by {by}: the strongest, and samples of each fifth of a uniform pool of {pool} passages, each with the "
    "{top} strongest edges of each query"
)
SOURCE = (
    "after HeadVis (transformer-circuits.pub/2026/headvis, github.com/anthropics/headvis); definitions of the metrics as of "
    "interp.scan"
)


def head_dossiers(
    model: HookedModel,
    passages: Iterable[Any],
    *,
    length: int | None = None,
    by: str = "strongest",
    strongest: int = 8,
    samples: int = 3,
    pool: int = 512,
    top: int = 4,
    least: float = 0.02,
    token_rows: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
) -> HeadDossiers:
    """What every head does over a corpus, measured in one streaming pass with bounded memory; see docs/dossiers.md.

    Of every head: means of the metrics beside chance, histograms over passages, attention by distance, the tokens that query and
    that are attended to, the strongest passages and samples of each fifth, with the strongest edges of each query. Only the
    passages that are shown are run a second time. Edits in force apply. Memory: O(T), see docs/dossiers.md for the arithmetic.

    Args:
        passages: texts (or sequences of token ids), a generator too: they are read once, as they are needed, and cut at
            ``length``.
        length, by, strongest, samples, pool, top, least, token_rows, seed: see ``interp.dossiers.DossierSettings``.
        folder: keep each finished part there. A run with the same settings, model and passages does only what is missing, and
            gives the same result to the last bit.
        progress: show a progress bar on stderr.

    Raises:
        InputError: what was given does not fit together, the model or the folder; a corpus without a passage.
        RunError: the activations hold NaN, or the folder cannot be written any more.
    """
    check_model(model)
    given = DossierSettings(length, by, strongest, samples, pool, top, least, token_rows, seed)
    settings = given.resolved(model)
    if folder is not None and not isinstance(folder, str | Path):
        raise InputError(f"folder: expected a path, or None to keep nothing, got {folder!r:.60}")
    kept = None
    if folder is not None:
        from interp.heads.retrieval_folder import fingerprint
        from interp.versions import NUMERIC

        facts = model.facts()
        versions = {name: version for name, version in facts.pop("versions").items() if name in NUMERIC}
        same = {"settings": settings.as_json(), "model": facts, "weights": fingerprint(model)}
        kept = RunFolder(Path(folder).expanduser(), same, versions)
    total = None
    with Bar(unit="token", what=f"dossiers {model.name}", show=progress) as bar:
        for number, group in enumerate(parts_of(passages_of(model, passages, settings.longest))):
            sha256 = checksum(group)
            part = None if kept is None else kept.finished(number, sha256)
            if part is None:
                part = measure_part(model, group, settings, measured=bar.update)
                if kept is not None:
                    kept.keep(number, part, sha256)
            else:
                bar.update(part.tokens)
            total = part if total is None else merge([total, part])
    if total is None:
        raise InputError("passages: the corpus has none; give at least one text of two tokens")
    return finish(model, total, progress=progress)


def finish(model: HookedModel, part: Part, *, progress: bool = False) -> HeadDossiers:
    """The dossiers of what was measured: the passages that they show are chosen, and run once more for their edges.

    Args:
        part: of the whole corpus, as ``merge`` gives it.

    Raises:
        InputError: the model has other layers or heads than the part.
    """
    layers = check_model(model)
    if (layers, model.shape.heads) != (part.layers, part.heads):
        raise InputError(
            f"part: it was measured on layers {list(part.layers)} of {part.heads} heads, and {model.name} has layers "
            f"{list(layers)} of {model.shape.heads}; give the model that it was measured on"
        )
    rows = shown_rows(part)
    wanted: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        heads = wanted[row.place][row.layer]
        if row.head not in heads:
            heads.append(row.head)
    tokens = sum(len(part.kept.passages[place]) for place in wanted)
    with Bar(total=tokens, unit="token", what=f"edges {model.name}", show=progress) as bar:
        edges = edges_of(model, part.kept.passages, wanted, part.settings, measured=bar.update)
    passages, shown, edge_table = passages_table(model, part, rows, edges)
    settings = part.settings
    return HeadDossiers(
        settings=settings_of(
            model,
            method=METHOD.format(by=settings.by, pool=settings.pool, top=settings.top),
            source=SOURCE,
            constants=settings.as_json()
            | {
                "fifths_are_exact": part.passages <= settings.pool,
                "quintile_error": 0.0 if part.passages <= settings.pool else quintile_error(settings.pool),
                "largest_token_error": float(part.by_token.error.max()),
            },
            inputs={"passages": part.passages, "tokens": part.tokens},
        ),
        layers=part.layers,
        heads=part.heads,
        by=settings.by,
        metrics=metrics_table(part),
        histograms=histogram_table(part),
        distance=distance_table(part),
        tokens=tokens_table(model, part),
        passages=passages,
        shown=shown,
        edges=edge_table,
    )


def shown_rows(part: Part) -> list[ShownRow]:
    """Which passages each head shows, as places in ``part.kept``."""
    settings, by = part.settings, part.by
    strongest = part.kept.strongest(settings.strongest, by)
    rows = []
    for at, layer in enumerate(part.layers):
        for head in range(part.heads):
            values = part.kept.values[:, by, at, head]
            found = [int(place) for place in strongest[:, at, head] if values[place] == values[place]]
            rows += [
                ShownRow(layer, head, "strongest", rank, place, float(values[place]))
                for rank, place in enumerate(found)
            ]
            for number, places in enumerate(part.kept.fifths(settings.pool, settings.samples, by, at, head)):
                group = f"fifth {number + 1} of {FIFTHS}"
                rows += [
                    ShownRow(layer, head, group, rank, int(place), float(values[place]))
                    for rank, place in enumerate(places)
                ]
    return rows
