"""The widget in which a token is hovered to see where it looks and who looks at it, for some heads over a window of a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, RunError
from interp.models.heads import HeadSpec
from interp.models.hooked import HookedModel
from interp.views.link_weighting import Weighting, check_weighting
from interp.views.token_axis import Tokens
from interp.views.token_budget import LIMIT, Room
from interp.views.token_html import fragment, page
from interp.views.token_links import MOST_LINKS, TokenLinks, checked_count, token_links, window_of
from interp.views.token_payload import payload
from interp.views.token_source import ALONE, Maps, TokenSource, source_of_maps, source_of_model
from interp_kernels import AttentionMap

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.inputs.convert import Inputs


@dataclass(frozen=True, eq=False, repr=False)
class TokenView:
    """Token links of some heads over one window, as a widget.

    links    by the head's name, in the order of the widget's list
    payload  what ``interp/views/token_view.js`` mounts: strings, numbers and base64 alone; see ``interp.views.token_payload``
    """

    links: Mapping[str, TokenLinks]
    payload: Mapping[str, Any]

    def html(self) -> str:
        """A page of its own, fewer than 1,000,000 bytes. It fetches nothing."""
        return page(self.payload, self.links)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the page into a file. Returns its path.

        Raises:
            InputError: there is such a file and ``overwrite`` is not set, or its folder is not there.
            RunError: it cannot be written.
        """
        target = Path(path).expanduser()
        if target.is_dir() or not target.parent.is_dir():
            raise InputError(f"path: expected a file in a folder that is there, such as 'view.html', got {str(path)!r}")
        try:
            with target.open("w" if overwrite else "x", encoding="utf-8") as file:
                file.write(self.html())
        except FileExistsError:
            raise InputError(f"path: {target} is there already; give another, or overwrite=True") from None
        except OSError as error:
            raise RunError(f"writing {target} failed: {error.strerror}") from error
        return target

    def _repr_html_(self) -> str:
        return fragment(self.payload, self.links)

    def __repr__(self) -> str:
        named = ", ".join(list(self.links)[:6]) + (", ..." if len(self.links) > 6 else "")
        return f"TokenView({self.payload['title']}: {named}; {self.payload['window'][0].lower()}{self.payload['window'][1:]})"


def token_view(
    source: HookedModel | Maps | AttentionMap,
    inputs: Inputs | Batch | Tokens,
    heads: HeadSpec | Iterable[HeadSpec] | Iterable[int] | None = None,
    *,
    start: int = 0,
    size: int | None = None,
    top: int = 8,
    batch: int = 0,
    weighting: Weighting = "attention",
    beyond_context: bool = False,
    title: str | None = None,
) -> TokenView:
    """Hover a token and see where it looks, and who looks at it: a widget for a notebook, a file or the dashboard.

    A page is smaller than 1 MB whatever the length of the text: it holds the weights between the tokens of one window, and of
    each of them the strongest links to all of the text. How large it can get is known before the model is run.

    Marks: blue is where the token under the pointer looks, orange who looks at it; the colour grows with the square root of the
    weight, from 0 to 1 or to the largest weight that is shown, as the legend says. Grey tokens are those that the mask hides
    from it. Click locks, click again or Escape releases, the arrow keys move. Memory: see ``token_links``.

    Args:
        source: a model, which is run on ``inputs``; or maps by layer, as ``HookedModel.maps`` gives them, or one map.
        inputs: of a model what ``HookedModel.capture`` takes; of maps the tokens: an entry of ``Batch.token_rows``, or the text
            of every token.
        heads: such as ["L2H5", (1, 3)], of one stack of layers; of one map, numbers of heads. Without, all of them, or as many
            as fit, which the page says.
        start: the window's first token, counted without padding.
        size: tokens of the window; without, up to 256, as many as fit with these heads.
        top: links of each token that are listed, up to 64.
        batch: which sequence of the inputs.
        weighting: "attention"; "value_norm", times the norm of the key's value; "without_first", without the first token, rows
            summing to 1 again.
        beyond_context: allow inputs longer than the model's context, where its positions are relative.
        title: above the text; without, the model's name.

    Raises:
        InputError: arguments that do not fit, heads and a size too large for one page (it says what would fit), layers that do
            not run over tokens, cross attention.
        RunError: the model's activations hold NaN.
    """
    check_weighting(weighting)
    checked_count("top", top, MOST_LINKS)
    given = _source(source, inputs, heads, batch, beyond_context)
    first, _ = window_of(start, 1 if size is None else size, len(given.axis))
    named = title or given.title
    room = Room(given.axis.texts, given.axis.special, first, top, given.names, given.is_causal, (named,))
    count, size = room.fit(size, all_heads=heads is not None)
    maps = given.maps(list(dict.fromkeys(layer for layer, _ in given.heads[:count])))
    links = {
        name: token_links(
            maps[layer], given.tokens, head=head, start=first, size=size, top=top, batch=batch, weighting=weighting
        )
        for name, (layer, head) in zip(room.names[:count], given.heads[:count], strict=True)
    }
    view = TokenView(links, _payload(links, named, given.notes, len(given.heads)))
    written = len(view.html().encode())
    if written >= LIMIT:  # a map that looks ahead, of a model that says it does not
        raise InputError(
            f"size: the page has {written:,} bytes, and it may have {LIMIT:,}; give a smaller size or fewer heads"
        )
    return view


def _source(source: object, inputs: Any, heads: Any, batch: int, beyond_context: bool) -> TokenSource:
    if isinstance(source, HookedModel):
        return source_of_model(source, inputs, heads, batch, beyond_context=beyond_context)
    if isinstance(source, AttentionMap):
        return source_of_maps({ALONE: source}, inputs, heads, batch)
    if isinstance(source, Mapping):
        return source_of_maps(source, inputs, heads, batch)
    raise InputError(f"source: expected a model, a map or maps by layer, got {source!r:.60}; interp.load loads a model")


def _payload(links: Mapping[str, TokenLinks], title: str, notes: list[str], of_heads: int) -> dict[str, Any]:
    one = next(iter(links.values()))
    length, told = len(one.tokens), list(notes)
    window = f"Tokens {one.start:,} to {one.stop - 1:,} of {length:,}"
    if one.stop - one.start < length:
        other = one.stop if one.stop < length else 0
        told.append(f"This page holds a part of the text; start={other} shows another.")
    if len(links) < of_heads:
        told.append(
            f"It has room for the first {len(links)} of {of_heads} heads; name others with heads=, or give a smaller size."
        )
    return payload(links, title=title, window=window, notes=told)
