"""The demo model's own byte-level BPE tokenizer: trained here, saved as a folder that `AutoTokenizer` loads.

Decisions:

- Byte level with all 256 bytes in the vocabulary: every text encodes, and decodes to itself exactly.
- Digits are split one by one, so that a number in a needle is a sequence to copy and not a lucky merge.
- BOS is added by a post-processor, so that each encoded text starts as each training window did.
- Text never becomes a special token: "<s>" typed in a text is three ordinary characters (`split_special_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS = "<s>"
PAD = "<pad>"
SPECIAL_TOKENS = (BOS, PAD)
"""Special tokens; their ids are their places here."""
BOS_ID = SPECIAL_TOKENS.index(BOS)
PAD_ID = SPECIAL_TOKENS.index(PAD)


def train_tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of `vocabulary` entries (specials and 256 bytes included) on `texts`.

    `context` is stored as the model's longest input, in tokens. Training is deterministic for the same texts in the same order.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        pad_token=PAD,
        model_max_length=context,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer saved in `folder`."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
