"""Which models can be loaded on this machine without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from interp.errors import InputError
from interp.loading.load import DEMO, DEMO_FOLDER, check_config


def local_models() -> list[dict[str, Any]]:
    """The demo model and the models of the Hugging Face cache: name, architecture, size, and whether they can be scanned."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    places = [(DEMO, DEMO_FOLDER)]
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = frozenset()
    for repository in sorted(repositories, key=lambda r: r.repo_id):
        if repository.repo_type == "model":
            newest = max(repository.revisions, key=lambda r: r.last_modified)
            places.append((repository.repo_id, newest.snapshot_path))
    return [_entry(name, folder) for name, folder in places if (folder / "config.json").is_file()]


def _entry(name: str, folder: Path) -> dict[str, Any]:
    entry = {"model": name, "architecture": "?", "layers": "?", "heads": "?", "context": "?", "status": "yes"}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        text = config.get_text_config()
        entry["architecture"] = (config.architectures or [type(config).__name__])[0]
        entry["layers"] = getattr(text, "num_hidden_layers", "?")
        entry["heads"] = getattr(text, "num_attention_heads", "?")
        entry["context"] = getattr(text, "max_position_embeddings", "?")
        check_config(config)
    except (InputError, OSError, ValueError) as error:
        entry["status"] = f"no: {str(error).splitlines()[0]}"
    return entry
