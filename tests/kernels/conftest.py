"""Threads, and the seed with which the random examples were drawn, so that a failing run can be had again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.cases import EXAMPLES, SEED


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These tensors are small: threads that wait for one another on a busy machine would take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if EXAMPLES is not None:
        terminalreporter.write_line(f"random examples: INTERP_EXAMPLES={EXAMPLES} INTERP_SEED={SEED}")
