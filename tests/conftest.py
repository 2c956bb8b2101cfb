"""What every test may rely on: no network for models, and the folder of real data where it is there.

Two marks are for GPUs. Tests marked ``gpu`` need a CUDA device, or one that is pretended (``pretend_device``); those marked
``hardware`` need a real one. Elsewhere they are skipped. INTERP_PRETEND_GPU=1 pretends one for the whole session:

    INTERP_PRETEND_GPU=1 pytest -m gpu      # what ``test_pretended_gpu.py`` does
    pytest -m "gpu or hardware"             # on a GPU
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.browser import installed_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Before anything imports triton, which reads it once: without a GPU its kernels run in its interpreter.
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")

IS_PRETENDED = os.environ.get("INTERP_PRETEND_GPU") == "1"
if IS_PRETENDED:
    from tests.pretend_device import pretended

    # For the whole session: test modules ask for the device when they are imported.
    PRETENDED = ExitStack()
    PRETENDED.enter_context(pretended())
    atexit.register(PRETENDED.close)

# Before anything imports transformers or huggingface_hub, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

# A busy machine is no defect.
settings.register_profile("interp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("interp")

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device, real or pretended")
    config.addinivalue_line("markers", "hardware: needs a real CUDA device")
    # DeBERTa's module in the earliest transformers that are supported, when it is imported.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("hardware") and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        elif item.get_closest_marker("gpu") and not (HAS_GPU or IS_PRETENDED):
            item.add_marker(
                pytest.mark.skip(reason="needs a CUDA device; test_pretended_gpu.py runs it on a pretended one")
            )


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
