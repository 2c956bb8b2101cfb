"""From a name, a folder or a model object to a HookedModel; nothing is downloaded unless a hub name is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedModel,
)

from interp.errors import InputError
from interp.models.hooked import HookedModel
from interp.models.host import TransformersHost
from interp.models.support import check_config_support

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "model"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model", "vocab.txt")


def load(
    source: str | Path | PreTrainedModel,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> HookedModel:
    """A hooked model, ready for ``capture`` and ``interp.scan``.

    Args:
        source: "demo" (the model that comes with interp), a local folder in Hugging Face form, a hub name, or a
            transformers model object, which is used as it is and not changed.
        revision: of a hub name.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps". Not for model objects.
        dtype: "auto" (the checkpoint's on a GPU; float32 on a CPU, where half precision is slower), or "float32",
            "float16", "bfloat16", "float64". Not for model objects.
        tokenizer: to use instead of the model's own; model objects come without one.

    Raises:
        InputError: no such model, a folder without weights, an architecture whose attention cannot be hooked.
    """
    if isinstance(source, PreTrainedModel):
        if (device, dtype, revision) != ("auto", "auto", None):
            raise InputError(
                "device, dtype and revision are for models that interp loads; move the model object yourself"
            )
        return HookedModel(TransformersHost(source), tokenizer, source.config.name_or_path or type(source).__name__)
    if not isinstance(source, str | Path):
        raise InputError(
            f"source: expected 'demo', a folder, a hub name or a transformers model, got {type(source).__name__}"
        )
    where, chosen_dtype = _device(device), _dtype(dtype)
    folder = DEMO_FOLDER if str(source) == DEMO else Path(source)
    location = str(folder) if folder.is_dir() else str(source)
    local = folder.is_dir()
    if local:
        _check_folder(folder)
    elif str(source) == DEMO or isinstance(source, Path) or _looks_like_path(str(source)):
        raise InputError(f"there is no folder {folder}; give a local model folder, a hub name, or 'demo'")
    config = _config(location, revision)
    check_config(config)
    model_class = _model_class(config)
    if chosen_dtype is None:
        chosen_dtype = torch.float32 if where.type == "cpu" else "auto"
    model = _weights(model_class, location, revision, chosen_dtype).eval()
    # Called on the base class: the library's own annotation of `to` hides its arguments.
    nn.Module.to(model, where)
    if tokenizer is None:
        tokenizer = _tokenizer(location, revision, local)
    name = DEMO if str(source) == DEMO else str(source)
    return HookedModel(
        TransformersHost(model), tokenizer, name, revision or getattr(model.config, "_commit_hash", None)
    )


def check_config(config: PreTrainedConfig) -> None:
    """Refuse a configuration whose attention cannot be watched whole, before its weights are read.

    Raises:
        InputError: transformers has no class for it, or ``interp.models.support`` says why not.
    """
    check_config_support(config, _concrete_class(config, _model_class(config)))


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return chosen


def _dtype(dtype: str) -> torch.dtype | None:
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise InputError(f"dtype: expected 'auto' or one of {', '.join(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype]


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise InputError(f"{folder} has a config.json but no weights; looked for {', '.join(WEIGHTS)}")


def _config(location: str, revision: str | None) -> PreTrainedConfig:
    try:
        # Without trust_remote_code=False a folder with code of its own makes transformers ask a question and wait.
        return AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if Path(location).is_dir():
            raise InputError(f"{location}/config.json cannot be used: {str(error).splitlines()[0]}") from error
        from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

        tried = "the Hugging Face hub was not asked (offline)" if HF_HUB_OFFLINE else "asked the Hugging Face hub"
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"found no model named {location!r}{at}: there is no such folder, it is not in the cache {HF_HUB_CACHE}, and "
            f"{tried}. Check the name, log in if it is gated, or give a local folder or 'demo'"
        ) from error


def _model_class(config: PreTrainedConfig) -> Any:
    """With its language-model head where it was saved with one (or does not say), else without any: attention is what counts."""
    named = (config.architectures or [""])[0]
    if named != "" and not named.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return AutoModel
    for auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq, AutoModelForImageTextToText):
        kind = auto._model_mapping.get(type(config), None)
        if kind is not None and kind.__name__ == named:
            return auto
    likely = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
    return likely if type(config) in likely._model_mapping else AutoModel


def _concrete_class(config: PreTrainedConfig, auto: Any) -> type[PreTrainedModel]:
    try:
        found = auto._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"transformers has no model class for {type(config).__name__}") from None
    return found[0] if isinstance(found, tuple | list) else found


def _weights(auto: Any, location: str, revision: str | None, dtype: torch.dtype | str) -> PreTrainedModel:
    try:
        model, report = auto.from_pretrained(
            location, revision=revision, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the weights of {location} cannot be loaded: {str(error).splitlines()[0]}") from error
    # The library fills in what is missing with random numbers. A pooler stands after all attention.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise InputError(
            f"the weights of {location} are not whole: {len(missing)} tensors are missing, among them {missing[0]}; "
            "they would be random numbers"
        )
    return model


def _tokenizer(location: str, revision: str | None, local: bool) -> PreTrainedTokenizerBase | None:
    if local and not any((Path(location) / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"the tokenizer of {location} cannot be loaded: {str(error).splitlines()[0]}") from error
