"""The view and the address bar: what goes in comes out, and what cannot be is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import InputError
from interp_app.view import LONGEST, View

NAMES = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True)
HEADS = st.builds("L{}H{}".format, st.integers(0, 9999), st.integers(0, 9999))
SPANS = st.tuples(st.integers(0, 10**8), st.integers(1, 10**8)).map(lambda pair: f"{pair[0]}-{pair[0] + pair[1]}")
PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=LONGEST)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model": PRINTABLE,
    "text": NAMES,
    "beyond": st.booleans(),
    "detector": NAMES,
    "head": HEADS,
    "rows": SPANS,
    "cols": SPANS,
    "op": st.sampled_from(["mean", "max"]),
    "weighting": st.sampled_from(["weights", "value", "no_sink"]),
    "colours": st.sampled_from(["fit", "fixed"]),
    "lock": st.integers(-1, 10**9 - 1),
    "start": st.integers(0, 10**9 - 1),
    "special": st.booleans(),
    "other": HEADS,
    "against": NAMES,
    "method": NAMES,
    "at": st.integers(-1, 10**9 - 1),
    "threshold": st.floats(0, 1, exclude_max=True),
    "scan": NAMES,
    "dossier": NAMES,
    "trials": st.sampled_from(["small", "full"]),
    "trial": st.integers(0, 10**9 - 1),
    "step": st.integers(0, 10**9 - 1),
}
VIEWS = st.fixed_dictionaries({}, optional=VALUES).map(lambda values: View(**values))


def test_every_field_is_tried_below():
    assert set(VALUES) == {field.name for field in fields(View)}


@given(VIEWS)
def test_an_address_gives_back_the_view_that_made_it(view: View):
    assert View.of_search(view.to_search()) == view
    assert View.of_search(view.to_search().removeprefix("?")) == view


@given(VIEWS)
def test_a_stored_view_survives_json(view: View):
    assert View.of(json.loads(json.dumps(view.to_dict()))) == view


@given(VIEWS)
def test_an_address_is_plain_ascii_without_spaces_or_quotes(view: View):
    address = view.to_search()
    assert address.isascii()
    assert not set(address) & set(" \"'<>\\\n")


def test_the_default_view_has_an_empty_address():
    assert View().to_search() == ""
    assert View.of_search("") == View.of_search(None) == View.of_search("?") == View()


def test_a_field_with_its_default_is_left_out():
    assert View(op="mean", head="L2H5").to_search() == "?head=L2H5"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model", "x" * (LONGEST + 1), "printable"),
        ("model", "a\nb", "printable"),
        ("model", "\u202egnp", "printable"),
        ("model", ["demo"], "printable"),
        ("text", "../../etc/passwd", "letters, digits"),
        ("text", "a\n", "letters, digits"),
        ("beyond", "yes", "0 or 1"),
        ("beyond", [], "0 or 1"),
        ("detector", "induction<b>", "letters, digits"),
        ("head", "2.5", "L2H5"),
        ("head", "L2H5\n", "L2H5"),
        ("head", "L\u0662H\u0665", "L2H5"),
        ("head", "L99999H0", "L2H5"),
        ("other", 5, "L2H5"),
        ("rows", "5-5", "0-512"),
        ("rows", "9-2", "0-512"),
        ("cols", "-1-4", "0-512"),
        ("cols", "0-9999999999", "0-512"),
        ("op", "median", "one of mean, max"),
        ("op", ["mean"], "one of mean, max"),
        ("weighting", "other", "one of weights, value, no_sink"),
        ("colours", "red", "one of fit, fixed"),
        ("lock", "-2", "at least -1"),
        ("lock", True, "at least -1"),
        ("lock", 1.5, "at least -1"),
        ("start", "\u0663", "at least 0"),
        ("start", "1e3", "at least 0"),
        ("at", "9" * 10, "at least -1"),
        ("scan", "a/b", "letters, digits"),
        ("trial", {"a": 1}, "at least 0"),
    ],
)
def test_what_a_field_cannot_hold_is_refused_by_its_name(field: str, value: Any, expected: str):
    with pytest.raises(InputError, match="the address is not one of this page") as refused:
        View.of({field: value})
    assert f"{field}: expected" in str(refused.value)
    assert expected in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("given", [["model"], "model", 5, [["model", "demo"]]])
def test_what_is_no_set_of_fields_is_refused(given: Any):
    with pytest.raises(InputError, match="expected fields and their values"):
        View.of(given)


def test_unknown_fields_are_passed_over():
    assert View.of({"colour_scheme": "x", "__class__": 1, "head": "L1H2"}) == View(head="L1H2")
    assert View.of_search("?token=abc&head=L1H2") == View(head="L1H2")


def test_empty_values_stand_for_the_default():
    assert View.of({"head": "", "lock": None}) == View()


def test_an_address_with_very_many_fields_is_refused():
    with pytest.raises(InputError, match="expected at most 64"):
        View.of_search("?" + "&".join(f"a{i}=1" for i in range(65)))


def test_heads_and_spans_are_read_as_numbers():
    view = View(head="L2H15", rows="0-512")
    assert view.place() == (2, 15)
    assert view.place("other") is None
    assert view.span("rows") == (0, 512)
    assert view.span("cols") is None
