"""Masks: each condition, what & means, and that the key spans which the tiled passes trust are right and tight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp_kernels import Mask, Received, attend
from tests.kernels.cases import masks, randomised
from tests.kernels.oracle import Sight

BATCH, KEYS = 2, 12


def allowed(mask: Mask, first: int, last: int, keys: int = KEYS, batch: int = BATCH) -> np.ndarray:
    """m for queries at positions first..last, bool [B, rows, keys]."""
    i, j = torch.arange(first, last + 1)[:, None], torch.arange(keys)
    seen = mask.allows(i, j, torch.arange(batch)[:, None, None])
    return seen.expand(batch, last + 1 - first, keys).numpy()


def drawn(mask: Mask, queries: int, keys: int, offset: int | None = None) -> str:
    """The first sequence's mask as text, a line a query."""
    first = keys - queries if offset is None else offset
    rows = allowed(mask, first, first + queries - 1, keys, batch=1)[0]
    return "\n".join("".join(".x"[int(cell)] for cell in row) for row in rows)


def test_causal_lets_a_query_see_its_own_position_and_those_before() -> None:
    assert drawn(Mask.causal(), 3, 3) == "x..\nxx.\nxxx"


def test_the_last_query_stands_at_the_last_key() -> None:
    assert drawn(Mask.causal(), 2, 4) == "xxx.\nxxxx"


def test_a_causal_window_lets_see_that_many_keys() -> None:
    assert drawn(Mask.causal(window=2), 4, 4) == "x...\nxx..\n.xx.\n..xx"


def test_a_full_window_reaches_as_far_on_both_sides() -> None:
    assert drawn(Mask.full(window=2), 4, 4) == "xx..\nxxx.\n.xxx\n..xx"


def test_padding_hides_keys_and_no_queries() -> None:
    assert drawn(Mask.from_padding(torch.tensor([[0, 1, 1]])), 3, 3) == ".xx\n.xx\n.xx"


def test_documents_see_themselves_alone_wherever_their_tokens_lie() -> None:
    assert drawn(Mask.from_documents(torch.tensor([[7, 7, 3, 7]])), 4, 4) == "xx.x\nxx.x\n..x.\nxx.x"


def test_documents_are_looked_up_at_the_position_of_the_query() -> None:
    assert drawn(Mask.from_documents(torch.tensor([[7, 7, 3, 7]])), 2, 4) == "..x.\nxx.x"


def test_a_predicate_is_asked_with_positions() -> None:
    assert drawn(Mask.from_predicate(lambda b, i, j: i + j == 3), 2, 4) == ".x..\nx..."


def test_an_offset_moves_the_queries() -> None:
    assert Mask.causal(offset=2).offset == Mask.causal().with_offset(2).offset == 2
    assert drawn(Mask.causal(), 2, 4, offset=0) == "x...\nxx.."


@randomised(200)
@given(built=masks(BATCH, 5, KEYS))
def test_a_mask_allows_what_each_of_its_conditions_allows(built: tuple[Mask, Sight]) -> None:
    mask, sight = built
    first = KEYS - 5 if mask.offset is None else mask.offset
    assert first == sight.offset
    np.testing.assert_array_equal(allowed(mask, first, first + 4), sight.visible(BATCH, 5, KEYS))


@randomised(200)
@given(left=masks(BATCH, 5, KEYS), right=masks(BATCH, 5, KEYS))
def test_two_masks_combined_allow_what_both_allow(left: tuple[Mask, Sight], right: tuple[Mask, Sight]) -> None:
    a, b = left[0], right[0]
    if a.offset is not None and b.offset is not None and a.offset != b.offset:
        with pytest.raises(ValueError, match=f"cannot combine masks with offsets {a.offset} and {b.offset}"):
            _ = a & b
        return
    assert (a & b).offset == (a.offset if b.offset is None else b.offset)
    np.testing.assert_array_equal(allowed(a & b, 0, KEYS), allowed(a, 0, KEYS) & allowed(b, 0, KEYS))


@randomised(300)
@given(built=masks(BATCH, 5, KEYS), first=st.integers(-6, 2 * KEYS), rows=st.integers(1, 6), keys=st.integers(1, KEYS))
def test_key_spans_hold_every_visible_key_and_open_spans_only_such(
    built: tuple[Mask, Sight], first: int, rows: int, keys: int
) -> None:
    mask, last = built[0], first + rows - 1
    first = max(first, 0) if mask.documents is not None else first
    last = max(last, first)
    seen = allowed(mask, first, last, keys)
    lo, hi = mask.key_span(first, last, keys)
    assert 0 <= lo <= hi
    assert not np.delete(seen, np.arange(lo, min(hi, keys)), axis=-1).any()
    open_lo, open_hi = mask.open_span(first, last, keys)
    assert 0 <= open_lo <= open_hi <= keys
    assert seen[..., open_lo:open_hi].all()
    if not mask.is_per_batch:
        assert lo == hi or (hi <= keys and seen[..., [lo, hi - 1]].any(axis=1).all()), "not the smallest span"
        assert seen.all(axis=(0, 1)).sum() == open_hi - open_lo, "not the largest open span"


def test_a_mask_moves_to_a_device_with_its_tensors() -> None:
    mask = Mask.from_padding(torch.ones(1, 3, dtype=torch.bool))
    moved = (mask & Mask.from_documents(torch.zeros(1, 3, dtype=torch.int64))).to("meta")
    assert moved.keep is not None
    assert moved.documents is not None
    assert moved.keep.device.type == moved.documents.device.type == "meta"


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "4"])
def test_a_window_must_be_a_positive_integer(window: object) -> None:
    for build in (Mask.causal, Mask.full):
        with pytest.raises(ValueError, match=rf"^window: expected None or an integer of at least 1, got {window!r}$"):
            build(window=window)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("offset", [1.5, True, "4"])
def test_an_offset_must_be_an_integer(offset: object) -> None:
    with pytest.raises(ValueError, match=rf"^offset: expected an integer, got {offset!r}$"):
        Mask.causal(offset=offset)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=rf"^offset: expected an integer, got {offset!r}$"):
        Mask.full().with_offset(offset)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([[True]], r"^keep: expected a tensor of shape \[B, Tk\], got \[\[True\]\]$"),
        (
            torch.ones(3, dtype=torch.bool),
            r"^keep: expected a tensor of shape \[B, Tk\], got torch.bool of shape \[3\]$",
        ),
        (torch.ones(1, 3), r"^keep: expected bool or integers 0 and 1, got torch.float32 of shape \[1, 3\]$"),
        (torch.tensor([[0, 2]]), r"^keep: expected bool or integers 0 and 1, got torch.int64 of shape \[1, 2\]$"),
    ],
)
def test_padding_must_be_a_boolean_matrix(keep: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mask.from_padding(keep)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("ids", [[[1]], torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3)])
def test_documents_must_be_an_integer_matrix(ids: object) -> None:
    with pytest.raises(ValueError, match=r"^ids: expected an integer tensor of shape \[B, T\], got "):
        Mask.from_documents(ids)  # pyright: ignore[reportArgumentType]


def test_a_predicate_must_be_callable() -> None:
    with pytest.raises(ValueError, match=r"^predicate: expected a function of \(batch, i, j\), got 3$"):
        Mask.from_predicate(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("build", [Mask.from_padding, Mask.from_documents])
def test_masks_of_different_lengths_do_not_combine(build) -> None:
    a, b = build(torch.ones(1, 3, dtype=torch.int64)), build(torch.ones(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^cannot combine masks over shapes \[1, 3\] and \[1, 4\]$"):
        _ = a & b


def test_a_mask_combines_with_masks_alone() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = Mask.causal() & torch.ones(3)  # pyright: ignore[reportOperatorIssue]


@pytest.mark.parametrize("window", [1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, 10**30])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_window_beyond_every_distance_is_none(backend, window: int) -> None:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 30, 8, generator=random) for _ in range(3))
    for build in (Mask.causal, Mask.full):
        for offset in (0, 1 << 61, -(1 << 61)):
            with_window, without = (
                attend(q, k, v, mask=build(**w).with_offset(offset), probes=[Received()], backend=backend)
                for w in ({"window": window}, {})
            )
            if abs(offset) >= window:
                continue
            assert torch.equal(with_window.output, without.output)
            assert torch.equal(with_window.stats["received"], without.stats["received"])


@pytest.mark.parametrize("offset", [(1 << 61) + 1, -(1 << 61) - 1, 1 << 63, 10**30])
def test_an_offset_that_int64_holds_no_sum_of_is_refused(offset: int) -> None:
    with pytest.raises(ValueError, match=rf"^offset: expected an integer from -2\^61 to 2\^61, got {offset}$"):
        Mask.causal(offset=offset)


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (torch.ones(3, 3), "torch.float32 of shape"),
        (1, "1"),
        (None, "None"),
        (torch.ones(3, 3, dtype=torch.int64), "torch.int64 of"),
    ],
)
def test_a_predicate_answers_with_bools(answer: object, came: str) -> None:
    mask = Mask.from_predicate(lambda b, i, j: answer)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=rf"^predicate: expected it to return a bool tensor, got {came}"):
        attend(*(torch.zeros(1, 1, 3, 4),) * 3, mask=mask)


def test_a_predicate_answers_for_the_places_that_it_is_asked_about() -> None:
    mask = Mask.from_predicate(lambda b, i, j: torch.ones(7, 2, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"^predicate: expected a tensor that broadcasts to \[1, 1, 3, 3\], the shape of its"
    ):
        attend(*(torch.zeros(1, 1, 3, 4),) * 3, mask=mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Mask(window=0), r"mask\.window: expected None or an integer of at least 1, got 0"),
        (Mask(offset=1.5), r"mask\.offset: expected an integer, got 1\.5"),  # pyright: ignore[reportArgumentType]
        (
            Mask(keep=torch.ones(1, 3)),
            r"mask\.keep: expected a bool tensor \[1, 3\], got torch.float32 of shape \[1, 3\]",
        ),
        (
            Mask(documents=torch.zeros(3)),
            r"mask\.documents: expected an int64 tensor \[B, T\], got torch.float32 of shape",
        ),
        (Mask(is_causal="yes"), r"mask\.is_causal: expected True or False, got 'yes'"),  # pyright: ignore[reportArgumentType]
        (Mask(predicates=(1,)), r"mask\.predicates: expected a tuple of functions, got \(1,\)"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_mask_that_was_built_without_the_class_methods_is_looked_at(mask: Mask, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        attend(*(torch.zeros(1, 1, 3, 4),) * 3, mask=mask)
