"""Encoders that read sound."""

from __future__ import annotations

from typing import Any

from tests.interp.tiny import COMMON
from tests.interp.zoo.entry import WIDTHS, Entry
from tests.interp.zoo.inputs import mel, wave

WAVE = {
    **WIDTHS,
    "vocab_size": COMMON["vocab_size"],
    "conv_dim": [8, 8],
    "conv_kernel": [6, 4],
    "conv_stride": [5, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
}


def speech(model: str, config: str, arguments: dict[str, Any] = WAVE, *, inputs: Any = None, **more: Any) -> Entry:
    return Entry(model, f"{config}Config", arguments | more, "Speech", inputs=inputs or wave())


SPEECH = (
    speech("Wav2Vec2Model", "Wav2Vec2"),
    speech("HubertModel", "Hubert"),
    speech("Data2VecAudioModel", "Data2VecAudio"),
    speech("UniSpeechModel", "UniSpeech"),
    speech("UniSpeechSatModel", "UniSpeechSat"),
    speech("SEWModel", "SEW", squeeze_factor=2),
    speech("Wav2Vec2ConformerModel", "Wav2Vec2Conformer", position_embeddings_type="rotary"),
    speech(
        "Wav2Vec2BertModel",
        "Wav2Vec2Bert",
        WIDTHS
        | {
            "feature_projection_input_dim": 16,
            "vocab_size": 61,
            "conv_depthwise_kernel_size": 3,
            "apply_spec_augment": False,
        },
        inputs=mel(20, 16),
    ),
    speech(
        "ASTModel",
        "AST",
        WIDTHS | {"num_mel_bins": 16, "max_length": 40, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
        inputs=mel(40, 16, "input_values"),
    ),
    speech(
        "ParakeetEncoder",
        "ParakeetEncoder",
        WIDTHS | {"num_mel_bins": 16, "subsampling_conv_channels": 8},
        inputs=mel(64, 16),
    ),
)
