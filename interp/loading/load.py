"""From a name, a folder or a model object to a HookedModel; nothing is downloaded unless a hub name is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    PreTrainedModel,
)

from interp.arguments import shown, switch
from interp.bridges.host import BridgeHost, check_not_taken_over, is_bridge
from interp.errors import InputError
from interp.loading.folder import ModelFolder
from interp.loading.hub import CONFIG, HubModel, asked, cached, rest_of
from interp.loading.placement import check_not_quantised, check_placement, model_object
from interp.models.hooked import HookedModel
from interp.models.host import TransformersHost
from interp.models.support import check_config_support

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "model"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load(
    source: str | Path | nn.Module,
    *,
    revision: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    trust_remote_code: bool = False,
) -> HookedModel:
    """A hooked model, ready for ``capture`` and ``interp.scan``.

    A hub name that is in the Hugging Face cache is used as it is there, and the hub is not asked. For one that is not, what
    will be downloaded is said on stderr first; its configuration comes before its weights, so that a model that cannot be
    hooked costs no more.

    Args:
        source: "demo" (the model that comes with interp), a local folder in Hugging Face form, a hub name, or a
            transformers model object (also one that torch.compile has wrapped) or a TransformerBridge of TransformerLens,
            which is used as it is: neither moved, copied nor changed.
        revision: branch, tag or commit of a hub name. ``HookedModel.revision`` is the commit that it stood for.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps", or a torch.device. Not for model objects.
        dtype: "auto" (the checkpoint's on a GPU; float32 on a CPU, where half precision is slower), or "float32",
            "float16", "bfloat16", "float64", or a torch.dtype. Not for model objects.
        tokenizer: to use instead of the model's own; transformers model objects come without one.
        trust_remote_code: run Python code that the folder or repository brings, if it needs it. Read it first.

    Raises:
        InputError: no such model, a folder without weights, an architecture whose attention cannot be hooked, weights that
            are quantised or on several devices, code of its own that was not allowed.
    """
    _check_arguments(revision, tokenizer, trust_remote_code)
    if isinstance(source, nn.Module):
        if (str(device), str(dtype), revision) != ("auto", "auto", None):
            raise InputError(
                "device, dtype and revision are for models that interp loads; move the model object yourself"
            )
        if is_bridge(source):
            host = BridgeHost(source)  # type: ignore[arg-type]
            return HookedModel(host, tokenizer or host.tokenizer, host.name)
        model = model_object(source)
        if model is not None:
            check_not_taken_over(model)
            check_placement(model)
            return HookedModel(TransformersHost(model), tokenizer, model.config.name_or_path or type(model).__name__)
    if not isinstance(source, str | Path):
        raise InputError(
            "source: expected 'demo', a folder, a hub name, a transformers model or a TransformerBridge, got "
            f"{type(source).__name__}"
        )
    where, chosen_dtype = chosen_device(device), _dtype(dtype)
    if chosen_dtype is None:
        chosen_dtype = torch.float32 if where.type == "cpu" else "auto"
    folder, remote = _folder(source, revision, trust_remote_code, tokenizer is None)
    config = folder.config()
    own = folder.own_class(config)
    auto = _model_class(config) if own is None else getattr(transformers, own[0])
    check_config_support(config, _concrete_class(config, auto) if own is None else own[1])
    check_not_quantised(config, folder.name)
    if remote is not None:
        remote.fetch(*remote.small, *remote.weights)
    model = folder.weights(auto, chosen_dtype).eval()
    # Called on the base class: the library's own annotation of `to` hides its arguments.
    nn.Module.to(model, where)
    check_placement(model)
    return HookedModel(TransformersHost(model), tokenizer or folder.tokenizer(), folder.name, folder.commit)


def _check_arguments(revision: Any, tokenizer: Any, trust_remote_code: Any) -> None:
    if revision is not None and not isinstance(revision, str):
        raise InputError(f"revision: expected a branch, tag or commit as a string, got {shown(revision)}")
    if tokenizer is not None and not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        raise InputError(
            f"tokenizer: expected a tokenizer of transformers, got {shown(tokenizer, 60)}; "
            "transformers.AutoTokenizer.from_pretrained(name or folder) gives one"
        )
    switch("trust_remote_code", trust_remote_code)


def _folder(
    source: str | Path, revision: str | None, trust_remote_code: bool, wants_tokenizer: bool
) -> tuple[ModelFolder, HubModel | None]:
    """The folder of a model; with the hub's model where weights or other files are still to be fetched."""
    name = str(source)
    path = DEMO_FOLDER if name == DEMO else Path(source)
    if _is_folder(path):
        if revision is not None:
            raise InputError(f"revision {revision!r} is for hub names; {name} is a folder, taken as it is")
        folder = ModelFolder(path, name, trust_remote_code)
        folder.check()
        return folder, None
    if name == DEMO or isinstance(source, Path) or _looks_like_path(name):
        raise InputError(f"there is no folder {path}; give a local model folder, a hub name, or 'demo'")
    found = cached(name, revision)
    if found is not None:
        folder = ModelFolder(found, name, trust_remote_code, commit=found.name)
        return folder, rest_of(name, found.name) if wants_tokenizer and not folder.has_tokenizer else None
    remote = asked(name, revision)
    first = remote.fetch(CONFIG, *(remote.code if trust_remote_code else ()))
    return ModelFolder(first, name, trust_remote_code, remote.commit), remote


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # too long for a path, or not to be looked at
        return False


def check_config(config: PreTrainedConfig) -> None:
    """Refuse a configuration whose attention cannot be watched whole, before its weights are read.

    Raises:
        InputError: transformers has no class for it, or ``interp.models.support`` says why not.
    """
    check_config_support(config, _concrete_class(config, _model_class(config)))


def chosen_device(device: str | torch.device) -> torch.device:
    """The device that is meant: "auto" is a GPU where there is one.

    Raises:
        InputError: it cannot be used here.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"device {shown(device)} cannot be used here: {str(error).splitlines()[0]}") from None
    return chosen


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    if isinstance(dtype, str) and dtype == "auto":
        return None
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise InputError(f"dtype: expected 'auto' or one of {', '.join(DTYPES)}, got {shown(dtype)}")
    return found


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1


def _model_class(config: PreTrainedConfig) -> Any:
    """With its language-model head where it was saved with one (or does not say), else without any: attention is what counts."""
    named = (config.architectures or [""])[0]
    for auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq, AutoModelForImageTextToText):
        if getattr(auto._model_mapping.get(type(config), None), "__name__", None) == named:
            return auto
    if named != "" and not named.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return AutoModel
    likely = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
    return likely if type(config) in likely._model_mapping else AutoModel


def _concrete_class(config: PreTrainedConfig, auto: Any) -> type[PreTrainedModel]:
    try:
        found = auto._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"transformers has no model class for {type(config).__name__}") from None
    return found[0] if isinstance(found, tuple | list) else found
