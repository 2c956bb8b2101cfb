"""Models with known circuits: GPT-2s of transformers whose weights are set by hand, attention alone in effect.

The residual stream has four parts: the token (one-hot), the position (one-hot), the token before (one-hot, written by heads
that look one back), and an equal number of zeros. Every token's stream has as many ones as any other's in its layer, so that
layer norms shift and scale all alike, and a shift of all keys changes no softmax.

A head scores its keys by two terms, each up to ``SHARP``: half of it for one place (so many back, or a fixed column), and all
of it for a key whose token before is the query's token. So an induction head without an earlier copy rests at its place. The
first query sees only itself, whatever a head does: that much of ``first_token_sink`` (1/64) and ``current_token`` none can avoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.interp.tiny import VOCABULARY

CONTEXT = 256
WIDTH = 2 * (2 * VOCABULARY + CONTEXT)
SHARP = 60.0
"""Difference of scores: exp(-30) of a head's attention goes elsewhere, times at most ``CONTEXT`` keys."""


@dataclass(frozen=True)
class Head:
    """Looks at the key ``back`` positions before (the first key where there is none), or at ``column`` (where it has passed).

    induces: rather at keys whose token before is the query's token; tells: writes the token that it sees into the part for the
    token before
    """

    back: int | None = None
    column: int | None = None
    induces: bool = False
    tells: bool = False


PREVIOUS = Head(back=1, tells=True)
INDUCTION = Head(back=2, induces=True)
FIRST = Head(column=0)
IDLE = Head(back=2)


def induction_circuit() -> GPT2LMHeadModel:
    """L0H0 looks one back and tells, L1H1 is the induction head that reads it; L0H1 and L1H0 idle."""
    return built([[PREVIOUS, IDLE], [IDLE, INDUCTION]])


def sink_circuit() -> GPT2LMHeadModel:
    """L1H0 looks at the first token; the other three idle."""
    return built([[IDLE, IDLE], [FIRST, IDLE]])


def built(layers: list[list[Head]]) -> GPT2LMHeadModel:
    """The model of these heads."""
    heads = len(layers[0])
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=len(layers),
        n_head=heads,
        n_inner=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = GPT2LMHeadModel(config).eval()
    token = slice(0, VOCABULARY)
    position = slice(VOCABULARY, VOCABULARY + CONTEXT)
    before = slice(VOCABULARY + CONTEXT, 2 * VOCABULARY + CONTEXT)
    size = WIDTH // heads
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.wte.weight[:, token] = torch.eye(VOCABULARY)
        model.transformer.wpe.weight[:, position] = torch.eye(CONTEXT)
        ones = 2
        for block, row in zip(model.transformer.h, layers, strict=True):
            block.ln_1.weight.fill_(1.0)
            # What a one of the stream is after the norm, above a zero.
            one = (ones / WIDTH - (ones / WIDTH) ** 2 + config.layer_norm_epsilon) ** -0.5
            scale = SHARP * size**0.5 / one**2
            for number, head in enumerate(row):
                q, k, v = (slice(part * WIDTH + number * size, part * WIDTH + (number + 1) * size) for part in range(3))
                # Of a head's dimensions the first are for positions, the next for tokens.
                query, key = block.attn.c_attn.weight[:, q], block.attn.c_attn.weight[:, k]
                query[position, :CONTEXT] = _looked_at(head) * scale / 2
                key[position, :CONTEXT] = torch.eye(CONTEXT)
                if head.induces:
                    query[token, CONTEXT : CONTEXT + VOCABULARY] = torch.eye(VOCABULARY) * scale
                    key[before, CONTEXT : CONTEXT + VOCABULARY] = torch.eye(VOCABULARY)
                if head.tells:
                    block.attn.c_attn.weight[:, v][token, :VOCABULARY] = torch.eye(VOCABULARY) / one
                    # The norm shifts all tokens' values alike; the bias takes that off again.
                    block.attn.c_attn.bias[v][:VOCABULARY] = ones / WIDTH
                    block.attn.c_proj.weight[number * size : number * size + VOCABULARY, before] = torch.eye(VOCABULARY)
            ones += sum(head.tells for head in row)
    return model


def _looked_at(head: Head) -> torch.Tensor:
    """[query, key], 1 where a query at that position looks."""
    at = torch.zeros(CONTEXT, CONTEXT)
    for i in range(CONTEXT):
        if head.column is not None:
            at[i, head.column] = 1.0
        elif head.back is not None:
            at[i, max(0, i - head.back)] = 1.0
    return at
