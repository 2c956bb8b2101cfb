"""What the pages ask for: models, readings, scans and all that is made of them, by the view; made in the background, kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from interp.errors import InputError
from interp.naming import named_layers
from interp_app.jobs import Failed, Jobs, Lane
from interp_app.settings import AppSettings
from interp_app.texts import Text, Texts
from interp_app.view import PROSE, View

if TYPE_CHECKING:
    import pandas as pd

    from interp.captures.reading import Reading
    from interp.dossiers import HeadDossiers
    from interp.heads.surface import SurfaceStatistics
    from interp.models.hooked import HookedModel
    from interp.scores import HeadScores

T = TypeVar("T")
SCAN_WINDOW = 512
"""Tokens of a window of text that a scan measures on, less where the context is shorter."""
PROSE_WINDOW = 128
"""Positions of a passage of the built-in prose, which is short: about ten passages."""


class Workspace:
    """One for each server. Methods give what a view shows, or raise ``Pending`` while it is made (``interp_app.jobs``)."""

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings
        self.texts = Texts(settings.longest_text, settings.text)
        self.jobs = Jobs(settings.memory, settings.longest_queue)
        self._loading = threading.Lock()

    def close(self) -> None:
        self.jobs.close()

    def model_name(self, view: View) -> str:
        """The model of a view, the first one where it names none.

        Raises:
            InputError: it is not among those that the server was started with.
        """
        if not view.model:
            return self.settings.models[0]
        if view.model not in self.settings.models:
            raise InputError(
                f"the model {view.model!r} is not open here; this server has {', '.join(self.settings.models)} (start it with "
                "others: interp app MODEL --model MODEL)"
            )
        return view.model

    def text(self, view: View) -> Text:
        return self.texts.get(view.text)

    def model(self, view: View) -> HookedModel:
        """Raises:
        Pending, Failed, InputError
        """
        name = self.model_name(view)
        return self.jobs.ask(("model", name), f"load {name}", lambda: self.loaded(name), size=_weights)

    def reading(self, view: View) -> Reading:
        """The view's text, read by its model: lazy maps of every layer, losses."""
        from interp.captures.reading import read

        name, text, beyond = self.model_name(view), self.text(view), view.beyond
        return self.jobs.ask(
            ("reading", name, text.id, beyond),
            f"read {text.title!r} with {name}",
            lambda: read(self.loaded(name), text.content, beyond_context=beyond),
            size=lambda reading: reading.bytes,
        )

    def scan(self, view: View) -> HeadScores:
        """The standard detectors: on the view's text in windows, and on random tokens."""
        from interp.scan import scan

        name, text = self.model_name(view), self.text(view)

        def work() -> HeadScores:
            model = self.loaded(name)
            window = min(SCAN_WINDOW, model.shape.context or SCAN_WINDOW)
            return scan(model, text=text.content, window=window, progress=False)

        return self.jobs.ask(("scan", name, text.id), f"scan {name}", work)

    def has_scan(self, view: View) -> bool:
        """Whether the view's scan is there; none is begun."""
        return self.jobs.peek(("scan", self.model_name(view), self.text(view).id)) is not None

    def statistics(self, view: View) -> SurfaceStatistics:
        """Surface statistics of every head on the view's text, in windows."""
        from interp.heads.surface import surface

        name, text = self.model_name(view), self.text(view)

        def work() -> SurfaceStatistics:
            model = self.loaded(name)
            window = min(SCAN_WINDOW, model.shape.context or SCAN_WINDOW)
            return surface(model, model.windows(text.content, window))

        return self.jobs.ask(("statistics", name, text.id), f"statistics of {name}", work)

    def made(
        self,
        view: View,
        what: Hashable,
        title: str,
        work: Callable[[HookedModel, Text], T],
        *,
        size: Callable[[T], int] = lambda value: 2**20,
        lane: Lane = "quick",
    ) -> T:
        """Anything else that is made of the view's model and text. what: which, beside these two."""
        key, title, run = self._job(view, what, title, work)
        return self.jobs.ask(key, title, run, size=size, lane=lane)

    def key_of(self, view: View, what: Hashable) -> Hashable:
        """The key of the job that ``made`` asks for."""
        return ("made", self.model_name(view), self.text(view).id, view.beyond, what)

    def _job(
        self, view: View, what: Hashable, title: str, work: Callable[[HookedModel, Text], T]
    ) -> tuple[Hashable, str, Callable[[], T]]:
        name, text = self.model_name(view), self.text(view)
        return self.key_of(view, what), title, lambda: work(self.loaded(name), text)

    def loaded(self, name: str) -> HookedModel:
        """A model, loaded where it is not yet; for the threads that work.

        Raises:
            InputError: it cannot be loaded, or is none that the pages can show.
        """
        from interp.loading.load import load

        with self._loading:
            model = self.jobs.peek(("model", name))
            if model is None:
                model = load(name, device=self.settings.device, dtype=self.settings.dtype)
                _check_shown(model)
                self.jobs.put(("model", name), model, _weights(model))
            return model

    def fitted(self, view: View) -> View:
        """The view, with a detector that its model is measured by where it names none and the usual one is not defined for it, as
        induction is not for heads that look both ways. As far as that is known: nothing is begun."""
        if view.detector != View().detector or not self.has_scan(view):
            return view
        scores = self.scan(view)
        return view if view.detector in scores.detectors else view.but(detector=_telling(scores))

    def stored_scans(self) -> pd.DataFrame:
        """One row a scan under ``settings.scans``; see ``interp_app.stored``."""
        from interp_app.stored import listed

        return listed(self.settings.scans)

    def dossiers(self, view: View) -> HeadDossiers:
        """The stored head dossiers that the view names, else the newest ones of its model under ``settings.scans``; without any,
        or where the view says ``PROSE``, those over the prose that comes with interp, measured now.

        Raises:
            Pending, Failed, InputError
        """
        from interp_app.stored import dossiers_file, listed_dossiers, opened_dossiers

        if view.dossier == PROSE:
            return self._dossiers_of_prose(view)
        folder = self.settings.scans
        names = listed_dossiers(folder, self.model(view).name)
        name = view.dossier or next(iter(names), "")
        if not name:
            return self._dossiers_of_prose(view)
        if name not in names:
            raise InputError(f"there are no stored dossiers {name!r} of this model in the server's folder of scans")
        # By its time: what is written anew under the same name is read anew.
        written = dossiers_file(folder, name).stat().st_mtime_ns
        return self.jobs.ask(
            ("dossiers", name, written),
            f"open the dossiers {name}",
            lambda: opened_dossiers(folder, name),
            size=_tables,
        )

    def _dossiers_of_prose(self, view: View) -> HeadDossiers:
        from interp.dossiers import head_dossiers

        name = self.model_name(view)

        def work() -> HeadDossiers:
            model = self.loaded(name)
            length = min(PROSE_WINDOW, model.shape.context or PROSE_WINDOW)
            return head_dossiers(model, [self.texts.prose], length=length, progress=False)

        return self.jobs.ask(("dossiers", name), f"dossiers of {name}", work, size=_tables, lane="long")

    def head(self, view: View, which: str = "head") -> tuple[int, int]:
        """Layer and head of a view: the one that it names, else the strongest of its detector ("other": the strongest that is
        not its head), on the view's text or, where that is too short for a scan, on the first one.

        Raises:
            InputError: the model has no such head.
        """
        model = self.model(view)
        place = view.place(which)
        if place is None:
            try:
                scores = self.scan(view)
            except Failed as failed:
                if failed.was_cancelled or self.text(view) == self.texts.first:
                    raise
                scores = self.scan(view.but(text=""))
            detector = view.detector if view.detector in scores.detectors else _telling(scores)
            ranked = scores.of(detector)
            heads = [(int(layer), int(head)) for layer, head in zip(ranked["layer"], ranked["head"], strict=True)]
            # The other one is another than the head that the view names or shows.
            taken = self.head(view) if which != "head" else None
            return next((each for each in heads if each != taken), heads[0])
        layer, head = place
        if layer not in model.layers or head >= model.shape.heads:
            raise InputError(
                f"{model.name} has no head L{layer}H{head}: its layers are {model.layers[0]} to {model.layers[-1]}, with heads "
                f"0 to {model.shape.heads - 1}"
            )
        return layer, head


def _check_shown(model: HookedModel) -> None:
    if model.shape.vocabulary == 0:
        raise InputError(
            f"{model.name} reads no text, and the dashboard shows what heads do on texts; in a notebook, capture and maps take it"
        )
    if not all(isinstance(layer, int) for layer in model.layers):
        raise InputError(
            f"{model.name} has more than one stack of layers ({named_layers(model.layers)}), and the dashboard shows one; in a "
            "notebook, capture, maps, interp.flow.rollout and interp.flow.relevance take it"
        )


def _telling(scores: HeadScores) -> str:
    """The detector that a page shows first."""
    return "induction" if "induction" in scores.detectors else scores.detectors[0]


def _weights(model: Any) -> int:
    return sum(x.numel() * x.element_size() for x in model.model.parameters())


def _tables(found: HeadDossiers) -> int:
    """Bytes of the tables of dossiers, with room for what is made of them."""
    return 4 * int(found.edges.memory_usage().sum()) + 2**22
