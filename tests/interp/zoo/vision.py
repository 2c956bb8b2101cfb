"""Towers that read images and videos, and those that read images beside text."""

from __future__ import annotations

from typing import Any

from tests.interp.zoo.entry import COMMON, LAYERS, WIDTHS, Entry, numbered
from tests.interp.zoo.inputs import frames, images_and_texts, pixels

PATCHES = WIDTHS | {"image_size": 32, "patch_size": 8, "num_channels": 3}
TEXT = WIDTHS | COMMON
TOWERS = {"text_config": TEXT, "vision_config": PATCHES, "projection_dim": 16}
BOTH = (*numbered("text"), *numbered("vision"))


def vision(
    model: str, config: str, arguments: dict[str, Any] = PATCHES, *, inputs: Any = None, layers: Any = None, **more: Any
) -> Entry:
    layers = tuple(range(LAYERS)) if layers is None else layers
    return Entry(model, f"{config}Config", arguments | more, "Vision", layers, inputs or pixels())


VISION = (
    vision("ViTModel", "ViT"),
    vision("DeiTModel", "DeiT"),
    vision("Dinov2Model", "Dinov2"),
    vision("Dinov2WithRegistersModel", "Dinov2WithRegisters"),
    vision("DINOv3ViTModel", "DINOv3ViT", num_register_tokens=2),
    vision("BeitModel", "Beit", use_relative_position_bias=True),
    vision("IJepaModel", "IJepa"),
    vision("ViTMSNModel", "ViTMSN"),
    vision("YolosModel", "Yolos", image_size=[32, 32], num_detection_tokens=3),
    vision("VideoMAEModel", "VideoMAE", image_size=16, num_frames=4, inputs=frames(4, 16)),
    vision("VivitModel", "Vivit", image_size=16, num_frames=4, tubelet_size=[2, 8, 8], inputs=frames(4, 16)),
    vision("CLIPModel", "CLIP", TOWERS, inputs=images_and_texts(), layers=BOTH),
    vision("SiglipModel", "Siglip", TOWERS, inputs=images_and_texts(), layers=BOTH),
    vision("CLIPVisionModel", "CLIPVision"),
    vision("Aimv2VisionModel", "Aimv2Vision", use_head=False),
    vision(
        "SwinModel",
        "Swin",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        layers=(0, 1, 2, 3),
    ),
    vision(
        "SegformerModel",
        "Segformer",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [16, 32],
            "patch_sizes": [3, 3],
        },
        strides=[2, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
    ),
)
