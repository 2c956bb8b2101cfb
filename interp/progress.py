"""Progress of long work: a bar on stderr, and whoever watches from elsewhere.

A watcher hears of every bar of its thread, shown or not, and can stop the work at its next step: what a screen needs to show
how far a job is, and to cancel it.

    watcher = Watcher(print)
    with watched(watcher):
        interp.scan(model, progress=False)  # elsewhere: watcher.stop()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


class Stopped(BaseException):
    """The work was asked to stop. Like KeyboardInterrupt no Exception, so that nothing that goes on after errors swallows it."""


@dataclass(frozen=True)
class Progress:
    """How far the outermost bar is. total: None where it is not known."""

    what: str
    done: float
    total: float | None
    unit: str


class Watcher:
    """Hears of the steps of one thread's work, and stops it when asked to, from any thread.

    heard: called with each step of the outermost bar, in the thread that works
    """

    def __init__(self, heard: Callable[[Progress], None] = lambda progress: None) -> None:
        self._heard = heard
        self._stop = threading.Event()
        self._outermost: Bar[Any] | None = None

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Stop the work at its next step."""
        self._stop.set()

    def check(self) -> None:
        """Raises:
        Stopped: the work is to stop.
        """
        if self._stop.is_set():
            raise Stopped

    def _advanced(self, bar: Bar[Any]) -> None:
        self.check()
        if self._outermost is None:
            self._outermost = bar
        if self._outermost is bar:
            self._heard(Progress(bar.what, bar.count, bar.total, bar.unit))

    def _ended(self, bar: Bar[Any]) -> None:
        if self._outermost is bar:
            self._outermost = None


class _Thread(threading.local):
    """Not a ContextVar, which torch.compile cannot trace."""

    watcher: Watcher | None = None


_thread = _Thread()


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """While it lasts, ``watcher`` hears of this thread's work. The innermost watcher hears alone."""
    before, _thread.watcher = _thread.watcher, watcher
    try:
        yield
    finally:
        _thread.watcher = before


def step() -> None:
    """A place within a run at which a watcher may stop it, such as after each layer.

    Raises:
        Stopped: it does.
    """
    if _thread.watcher is not None:
        _thread.watcher.check()


class Bar(tqdm, Generic[T]):
    """A bar on stderr, where ``show`` is set; counted for the watcher in any case.

    Args:
        iterable: what to go over; without it, ``update`` counts.
        what: what is being done, such as "scan demo".
        unit: what is counted, in the singular.
        total, initial, smoothing: as of tqdm.
    """

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        *,
        what: str,
        unit: str,
        show: bool,
        total: float | None = None,
        initial: int = 0,
        smoothing: float = 0.3,
    ) -> None:
        self.what, self.count = what, float(initial)
        self._watcher = _thread.watcher
        super().__init__(
            iterable,
            total=total,
            initial=initial,
            smoothing=smoothing,
            unit=unit,
            desc=what,
            disable=not show,
        )
        # A bar that is not shown forgets these.
        self.unit = unit
        if total is None and iterable is not None and hasattr(iterable, "__len__"):
            total = len(iterable)  # pyright: ignore[reportArgumentType]
        self.total = total
        self._tell(0)

    def update(self, n: float | None = 1) -> bool | None:
        """n more are done."""
        shown = super().update(n)
        self._tell(1 if n is None else n)
        return shown

    def __iter__(self) -> Iterator[T]:
        if self._watcher is None:
            yield from super().__iter__()
            return
        try:
            for each in super().__iter__():
                yield each
                self._tell(1)
        finally:
            self._watcher._ended(self)

    def close(self) -> None:
        """Ends it; a watcher hears of the next outermost bar from here on."""
        super().close()
        if getattr(self, "_watcher", None) is not None:
            self._watcher._ended(self)  # pyright: ignore[reportOptionalMemberAccess]

    def _tell(self, n: float) -> None:
        self.count += n
        if self._watcher is not None:
            self._watcher._advanced(self)
