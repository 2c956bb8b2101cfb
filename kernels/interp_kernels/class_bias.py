"""A bias with few distinct columns: what is added to a score depends on the query and on the class of the key."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassBias:
    """Adds values[b, h, i, classes[b, h, j]] to the score s_ij: O(T) memory where a bias takes a number for each pair.

    values   floating [B|1, Hq|1, Tq, C], or [Tq, C] for all sequences and heads: row i's bias for the keys of each class.
             -inf hides the class's keys from the query, as does any value below -4.3e37. They carry no gradient.
    classes  integers in [0, C), [B|1, Hq|1, Tk], or [Tk] for all: the class of each key. Where nothing is to be added
             to some keys, give them a class whose values are 0.

    To cut the edges from chosen queries to chosen keys is two classes: 1 for the chosen keys, 0 for the others, with the
    values (0, -inf) in the rows of the chosen queries and (0, 0) in the others.
    """

    values: Tensor
    classes: Tensor
