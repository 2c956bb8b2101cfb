"""What every test may rely on: no network for models, and the folder of real data where it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.browser import installed_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Before anything imports triton, which reads it once: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Before anything imports transformers or huggingface_hub, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

# A busy machine is no defect.
settings.register_profile("interp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("interp")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of texts, tokenizers and models that the project did not make; the test is skipped where it is absent.

    INTERP_SHARED_DATA names it; without, it lies beside the repository as shared/data.
    """
    named = os.environ.get("INTERP_SHARED_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        where = f"INTERP_SHARED_DATA={named}" if named else str(folder)
        pytest.skip(f"needs the shared data, and {where} is not a folder")
    return folder


# Here and not with the tests of one package: a second playwright cannot be started in the same process.
@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Chromium, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev`)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()
