"""Architectures that compute attention in code of their own, and how each is sent through ``watched`` while it is hooked.

An adapter stands in for one method of a module. It repeats what that method does around the attention and leaves the attention
itself to ``watch``. Everything else of the model stays its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from interp.models.adapters.adapter import Adapter
from interp.models.adapters.alibi import BLOOM, FALCON, MPT
from interp.models.adapters.bert import BERT_LIKE, MPNET
from interp.models.adapters.gpt import CODEGEN, GPT_J, GPT_NEO, GPT_NEOX_JAPANESE, OPENAI_GPT
from interp.models.adapters.xglm import XGLM

ADAPTERS: Mapping[str, Adapter] = {
    "bloom.modeling_bloom.BloomAttention": BLOOM,
    "codegen.modeling_codegen.CodeGenAttention": CODEGEN,
    "falcon.modeling_falcon.FalconAttention": FALCON,
    "gpt_neo.modeling_gpt_neo.GPTNeoSelfAttention": GPT_NEO,
    "gpt_neox_japanese.modeling_gpt_neox_japanese.GPTNeoXJapaneseAttention": GPT_NEOX_JAPANESE,
    "gptj.modeling_gptj.GPTJAttention": GPT_J,
    "megatron_bert.modeling_megatron_bert.MegatronBertSelfAttention": BERT_LIKE,
    "mpnet.modeling_mpnet.MPNetSelfAttention": MPNET,
    "mpt.modeling_mpt.MptAttention": MPT,
    "openai.modeling_openai.Attention": OPENAI_GPT,
    "rembert.modeling_rembert.RemBertSelfAttention": BERT_LIKE,
    "xglm.modeling_xglm.XGLMAttention": XGLM,
}
"""Class of an attention module, by where it stands in ``transformers.models`` -> its adapter."""


def adapter_of(kind: type[nn.Module]) -> Adapter | None:
    """The adapter of a class of modules. A class derived from one that has an adapter has none: it may differ anywhere."""
    return ADAPTERS.get(f"{kind.__module__}.{kind.__qualname__}".removeprefix("transformers.models."))
