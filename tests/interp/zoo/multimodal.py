"""Language models that also see: the tower's layers are "vision.0", the language model's are ints."""

from __future__ import annotations

from typing import Any

from tests.interp.tiny import ALTERNATING
from tests.interp.zoo.entry import GROUPED, LAYERS, WIDTHS, Entry, numbered
from tests.interp.zoo.inputs import image_in_text, packed_image, tiled_image_beside_text

IMAGE = 59
PATCHES = WIDTHS | {"image_size": 32, "patch_size": 16, "num_channels": 3}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
LLAMA = GROUPED | {"model_type": "llama"}
SEEING = (*numbered("vision"), *range(LAYERS))


def seeing(
    model: str, config: str, arguments: dict[str, Any], *, inputs: Any = None, layers: Any = SEEING, **more: Any
) -> Entry:
    return Entry(
        model, f"{config}Config", arguments | more, "Language models that see", layers, inputs or image_in_text(4)
    )


MULTIMODAL = (
    seeing(
        "LlavaForConditionalGeneration",
        "Llava",
        {"text_config": LLAMA, "vision_config": PATCHES | {"model_type": "clip_vision_model"}},
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    ),
    seeing(
        "PaliGemmaForConditionalGeneration",
        "PaliGemma",
        {
            "text_config": GROUPED | {"model_type": "gemma", "head_dim": 8},
            "vision_config": PATCHES | {"model_type": "siglip_vision_model", "vision_use_head": False},
        },
        image_token_id=IMAGE,
        image_token_index=IMAGE,
        projection_dim=32,
    ),
    seeing(
        "Gemma3ForConditionalGeneration",
        "Gemma3",
        {
            "text_config": GROUPED | ALTERNATING | {"head_dim": 8, "query_pre_attn_scalar": 8},
            "vision_config": PATCHES | {"vision_use_head": False},
        },
        image_token_index=IMAGE,
        boi_token_index=57,
        eoi_token_index=58,
        mm_tokens_per_image=4,
    ),
    seeing(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VL",
        {
            "text_config": GROUPED | {"rope_parameters": ROPE | {"mrope_section": [1, 1, 2]}},
            "vision_config": {"depth": LAYERS, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8},
        },
        inputs=packed_image(16, 3 * 2 * 8 * 8),
        image_token_id=IMAGE,
        video_token_id=58,
        vision_start_token_id=57,
    ),
    seeing(
        "Idefics3ForConditionalGeneration",
        "Idefics3",
        {"text_config": LLAMA, "vision_config": PATCHES},
        inputs=image_in_text(1, image_axis=True),
        layers=(*numbered("vision"), *numbered("text")),
        image_token_id=IMAGE,
        scale_factor=2,
    ),
    seeing(
        "MllamaForConditionalGeneration",
        "Mllama",
        {
            "text_config": GROUPED | {"num_hidden_layers": 4, "cross_attention_layers": [1, 3]},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "attention_heads": 4,
                "num_hidden_layers": 1,
                "num_global_layers": 1,
                "image_size": 32,
                "patch_size": 16,
                "max_num_tiles": 1,
                "supported_aspect_ratios": [[1, 1]],
                "intermediate_layers_indices": [0],
                "vision_output_dim": 64,
            },
        },
        inputs=tiled_image_beside_text(),
        layers=(*numbered("vision"), 0, 2, "cross.1", "cross.3"),
        image_token_index=IMAGE,
    ),
)
