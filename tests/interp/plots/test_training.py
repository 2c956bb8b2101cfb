"""The training curve shows what the table holds, and the demo model's table holds a phase change."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.errors import InputError
from interp.plots.training import training_curve

TABLE = Path(str(resources.files("interp").joinpath("demo/model/training_curve.csv")))


def test_lines_are_the_columns_of_the_table() -> None:
    frame = pd.read_csv(TABLE)
    figure = training_curve(TABLE)
    lines = {trace.name: trace for trace in figure.data}
    np.testing.assert_array_equal(lines["second copy"].y, frame["second_copy_loss"])
    strongest = frame.filter(like="induction_L").iloc[-1].idxmax()
    np.testing.assert_array_equal(lines[strongest.removeprefix("induction_")].y, frame[strongest])


def test_induction_heads_and_the_fall_of_the_second_copys_loss_come_together() -> None:
    frame = pd.read_csv(TABLE)
    formed = frame.loc[frame["best_induction"] > 0.5, "step"].iloc[0]
    fallen = frame.loc[frame["second_copy_loss"] < 0.5 * frame["first_copy_loss"], "step"].iloc[0]
    assert frame["best_induction"].iloc[0] < 0.05
    assert abs(formed - fallen) < 0.05 * frame["step"].iloc[-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a training curve"),
        ("a,b\n1,2\n", "is no training curve: it lacks step"),
        ("", "cannot be"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "curve.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        training_curve(path)
