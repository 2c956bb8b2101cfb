"""Edits in a graph that torch's own compiler has lowered, which writes in place where dynamo alone does not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp import edits
from interp.models.call import AttentionCall
from interp.models.layers import AttentionLayer
from interp_kernels import Mask

HEADS, TOKENS = 4, 6
LAYER = AttentionLayer("", 0, "", HEADS)

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler wants g++"),
    # Of torch's own, when its compiler is imported.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_uniform_head_leaves_the_others_alone_where_all_share_classes_or_a_bias(with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(1, HEADS, TOKENS, 8, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 1, HEADS // 2, TOKENS, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(1, 1, TOKENS, TOKENS, generator=generator, dtype=torch.float64) if with_bias else None
    recalibrate = replace(edits.recalibrate(keys=[0, 2], factor=0.3), chosen={0: None})
    uniform = replace(edits.uniform("L0H1"), chosen={0: (1,)})

    def edited_output(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        call = AttentionCall(LAYER, q, k, v, Mask.causal(), bias=bias)
        return uniform.operands(recalibrate.operands(call)).attend().output

    expected = edited_output(q, k, v, bias)
    compiled = torch.compile(edited_output, fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v, bias), expected, rtol=1e-9, atol=1e-11)
