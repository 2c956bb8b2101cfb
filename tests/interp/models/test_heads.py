"""Names of heads as people write them."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.errors import InputError
from interp.models.heads import head_counts, parse_head, parse_heads
from interp.naming import head_name
from tests.interp.tiny import HEADS, LAYERS

ONE_STACK = {0: 4, 1: 4, 5: 2}
STACKS = {"encoder.3": 4, "decoder.3": 4, "cross.3": None}


@pytest.mark.parametrize("spec", ["L5H1", "l5h1", "5.1", " L5.H1 ", (5, 1), [5, 1], (np.int64(5), np.int64(1))])
def test_spellings_of_one_head(spec):
    layer, head = parse_head(spec, ONE_STACK)
    assert (layer, head) == (5, 1)
    assert (type(layer), type(head)) == (int, int)


@pytest.mark.parametrize("spec", ["encoder.3.1", "encoder.L3H1", ("encoder.3", 1)])
def test_spellings_of_a_head_of_one_stack(spec):
    assert parse_head(spec, STACKS) == ("encoder.3", 1)


@pytest.mark.parametrize("layer", [5, "encoder.3"])
def test_the_name_of_a_head_is_read_as_that_head(layer):
    assert parse_head(head_name(layer, 1), {layer: 4}) == (layer, 1)


@pytest.mark.parametrize(
    "spec", ["", "5", "H1", "51", "L5H", "5.1.2", "5.-1", (5,), (5, -1), (5, True), (True, 1), (5, "1"), 5, None, 5.1]
)
def test_what_is_no_head_is_refused(spec):
    with pytest.raises(InputError, match=r"expected a layer and a head counted from 0, such as 'L5H1'"):
        parse_head(spec, ONE_STACK)


def test_layers_and_heads_that_do_not_exist():
    with pytest.raises(InputError, match=r"head 'L2H0': layer 2 does not exist; the layers are 0, 1, 5"):
        parse_head("L2H0", ONE_STACK)
    with pytest.raises(InputError, match=r"head 'L5H2' does not exist: layer 5 has 2 query heads, 0 to 1"):
        parse_head("L5H2", ONE_STACK)
    with pytest.raises(InputError, match=r"layer 3 does not exist; the layers are encoder\.3, decoder\.3, cross\.3"):
        parse_head("3.1", STACKS)


def test_a_layer_that_does_not_say_its_heads_takes_any():
    assert parse_head("cross.3.7", STACKS) == ("cross.3", 7)


def test_heads_are_grouped_by_layer_in_order_and_once():
    assert parse_heads(["L5H1", (0, 3), "0.1", "L0H3"], ONE_STACK) == {0: (1, 3), 5: (1,)}


@pytest.mark.parametrize("one", ["L5H1", (5, 1)])
def test_one_head_may_stand_alone(one):
    assert parse_heads(one, ONE_STACK) == {5: (1,)}


@pytest.mark.parametrize("none", [[], 5, None])
def test_no_heads_are_refused(none):
    with pytest.raises(InputError, match=r"^heads: expected"):
        parse_heads(none, ONE_STACK)


def test_counts_of_a_model(own_model):
    assert head_counts(interp.load(own_model("llama")).host.layers) == dict.fromkeys(range(LAYERS), HEADS)
