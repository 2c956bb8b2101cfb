"""Reading a folder in Hugging Face form: configuration, weights, tokenizer, and code of its own only when asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from interp.errors import InputError
from interp.loading.hub import CONFIG, TOKENIZER_FILES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model, what people call it, whether code that it brings may be run, and the commit of a hub's model.

    Nothing is downloaded: what is not in the folder is not there.
    """

    path: Path
    name: str
    trust_remote_code: bool = False
    commit: str | None = None

    def check(self) -> None:
        """Refuse a folder without a configuration or without weights.

        Raises:
            InputError: says which.
        """
        if not (self.path / CONFIG).is_file():
            raise InputError(f"{self.name} is no model folder: it has no {CONFIG}")
        if not any(any(self.path.glob(pattern)) for pattern in WEIGHTS):
            raise InputError(f"{self.name} has a {CONFIG} but no weights; looked for {', '.join(WEIGHTS)}")

    def config(self) -> PreTrainedConfig:
        """Its configuration.

        Raises:
            InputError: it cannot be read, or the model wants code of its own, which may not be run.
        """
        code = self._own_code()
        if code and not self.trust_remote_code:
            raise self._untrusted(code)
        try:
            # Without trust_remote_code=False a folder with code of its own makes transformers ask a question and wait.
            return AutoConfig.from_pretrained(
                self.path, trust_remote_code=self.trust_remote_code, local_files_only=True
            )
        except (OSError, ValueError, TypeError, AttributeError, ImportError, SyntaxError) as error:
            raise InputError(f"{self.name}/{CONFIG} cannot be used: {str(error).splitlines()[0]}") from error

    def own_class(self, config: PreTrainedConfig) -> tuple[str, type[PreTrainedModel]] | None:
        """The auto class and the model class of code that the folder brings, None where transformers has the model.

        Raises:
            InputError: the code does not run.
        """
        classes: dict[str, str] = getattr(config, "auto_map", None) or {}
        auto = next((name for name in ("AutoModelForCausalLM", "AutoModel") if name in classes), None)
        if not self.trust_remote_code or auto is None:
            return None
        try:
            return auto, get_class_from_dynamic_module(classes[auto], self.path, local_files_only=True)
        except (OSError, ImportError, AttributeError, SyntaxError) as error:
            raise InputError(f"the code of {self.name} cannot be run: {str(error).splitlines()[0]}") from error

    def weights(self, auto: Any, dtype: torch.dtype | str) -> PreTrainedModel:
        """The model, with every weight from the folder.

        Raises:
            InputError: they cannot be read, or some are missing.
        """
        try:
            model, report = auto.from_pretrained(
                self.path,
                dtype=dtype,
                trust_remote_code=self.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"the weights of {self.name} cannot be loaded: {str(error).splitlines()[0]}") from error
        # The library fills in what is missing with random numbers. A pooler stands after all attention.
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise InputError(
                f"the weights of {self.name} are not whole: {len(missing)} tensors are missing, among them {missing[0]}; "
                "they would be random numbers"
            )
        if self.commit is not None:
            # As the library records them when it loads a name.
            model.config._name_or_path = model.name_or_path = self.name
            model.config._commit_hash = self.commit
        return model

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its tokenizer, None where there are no files of one.

        Raises:
            InputError: it cannot be read.
        """
        if not self.has_tokenizer:
            return None
        try:
            return AutoTokenizer.from_pretrained(
                self.path, trust_remote_code=self.trust_remote_code, local_files_only=True
            )
        except (OSError, ValueError, ImportError) as error:
            if "custom code" in str(error) and not self.trust_remote_code:
                raise self._untrusted("its tokenizer") from error
            raise InputError(f"the tokenizer of {self.name} cannot be loaded: {str(error).splitlines()[0]}") from error

    @property
    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)

    def _own_code(self) -> str:
        """The code that the configuration names for an architecture that transformers does not know, "" for none."""
        try:
            raw = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
        if not isinstance(raw, dict) or not raw.get("auto_map"):
            return ""
        named = (raw.get("architectures") or [None])[0]
        is_known = raw.get("model_type") in transformers.CONFIG_MAPPING and (
            named is None or hasattr(transformers, named)
        )
        return "" if is_known else ", ".join(sorted({str(code) for code in raw["auto_map"].values()}))

    def _untrusted(self, code: str) -> InputError:
        return InputError(
            f"{self.name} brings Python code of its own ({code}), which interp does not run unless asked; read it, and if "
            "you trust it use load(..., trust_remote_code=True)"
        )
