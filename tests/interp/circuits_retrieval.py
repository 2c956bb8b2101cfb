"""A GPT-2 with weights set by hand that finds needles: what each of its heads does is known.

    L0H0  looks at the previous token, and writes down which it is
    L0H1  looks at the first copy of its own token: into the needle, but at the wrong token
    L1H0  looks at the token that followed an earlier copy of its own, and writes it: the retrieval head
    L1H1  looks nowhere in particular

The residual stream holds which token stands at a position, its position, and its previous token, one number each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from tests.interp.tiny import VOCABULARY
from tests.interp.words import BOS, EOS, PAD

POSITIONS, WIDTH, HEADS = 128, 256, 2
HEAD = WIDTH // HEADS
TOKEN, POSITION, PREVIOUS = 0, VOCABULARY, VOCABULARY + POSITIONS
"""Where each part of the residual stream begins."""
SHARP = 3.0
RETRIEVAL_HEAD = "L1H0"


def retrieval_circuit() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=2,
        n_head=HEADS,
        n_inner=8,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        tokens, places = torch.eye(VOCABULARY), torch.eye(POSITIONS)
        body = model.transformer
        body.wte.weight[:, TOKEN : TOKEN + VOCABULARY] = tokens
        body.wpe.weight[:, POSITION : POSITION + POSITIONS] = places
        model.lm_head.weight[:, TOKEN : TOKEN + VOCABULARY] = tokens
        first, second = (block.attn for block in body.h)
        # Position i asks for what i - 1 offers.
        _look(first, 0, (POSITION, torch.diag(torch.ones(POSITIONS - 1), diagonal=-1)), (POSITION, places))
        _write(first, 0, PREVIOUS, gain=0.1)
        _look(first, 1, (TOKEN, tokens), (TOKEN, tokens))
        _look(second, 0, (TOKEN, tokens), (PREVIOUS, tokens))
        _write(second, 0, TOKEN, gain=1.0)
    return model


def _look(attention: torch.nn.Module, head: int, query: tuple[int, Tensor], key: tuple[int, Tensor]) -> None:
    """What a head reads from the residual stream, from which place on, for its queries and for its keys."""
    weight = attention.c_attn.weight
    for part, (start, read) in enumerate((query, key)):
        column = part * WIDTH + head * HEAD
        weight[start : start + len(read), column : column + read.shape[1]] = SHARP * read


def _write(attention: torch.nn.Module, head: int, start: int, gain: float) -> None:
    """The tokens that a head looks at go to the residual stream from ``start`` on."""
    tokens = torch.eye(VOCABULARY)
    column = 2 * WIDTH + head * HEAD
    attention.c_attn.weight[TOKEN : TOKEN + VOCABULARY, column : column + VOCABULARY] = tokens
    attention.c_proj.weight[head * HEAD : head * HEAD + VOCABULARY, start : start + VOCABULARY] = gain * tokens
