"""What ``faithfulness`` gives: correlations of methods with what removing tokens does, and everything that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from interp.flow.methods import ABLATION
from interp.results.means import give_or_take
from interp.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Faithfulness(Result):
    """Rank correlations of methods with what removing tokens does, and with input gradients.

    correlations  a row for each example, method and reference ("ablation", "gradient_norm", "gradient_x_input"): spearman, in
                  [-1, 1], NaN where scores or effects are all equal or fewer than 3 tokens are compared; tokens: how many are
    scores        a row for each example, token and name (a method, "ablation" or a gradient): value; is_compared: whether the
                  token counts. Of "ablation" the value is F - F without the token
    targets       of each example the token or class that was explained; () of a function
    values        F of each example
    """

    kind: ClassVar[str] = "faithfulness"

    correlations: pd.DataFrame
    scores: pd.DataFrame
    targets: tuple[str, ...]
    values: tuple[float, ...]

    def to_frame(self) -> pd.DataFrame:
        """The correlations: a row for each example, method and reference."""
        return self.correlations

    def table(self) -> pd.DataFrame:
        """A row for each method and reference: mean and standard error over the examples where the correlation is defined.

        Columns: method, reference, mean, stderr (NaN of one example), examples, undefined (how many are left out).
        """
        grouped = self.correlations.groupby(["method", "reference"], sort=False)["spearman"]
        table = grouped.agg(mean="mean", stderr="sem", examples="count", size="size").reset_index()
        table["undefined"] = table.pop("size") - table["examples"]
        return table

    def plot(self) -> go.Figure:
        """Mean correlation of each method with each reference; see ``interp.plots.faithfulness``."""
        from interp.plots.faithfulness import correlations_plot

        return correlations_plot(self)

    def summary(self) -> str:
        """The methods by their correlation with ablation."""
        table = self.table()
        table = table[table["reference"] == ABLATION].sort_values("mean", ascending=False, kind="stable")
        lines = [
            f"{row['method']}: {row['mean']:.2f}{give_or_take(row['stderr'])}"
            + (f" ({row['undefined']} undefined)" if row["undefined"] else "")
            for row in table.to_dict("records")
        ]
        return (
            f"correlation with ablation over {len(self.values)} example{'s' if len(self.values) > 1 else ''}: "
            + ", ".join(lines)
            + "".join(f"\nleft out {name}: {why}" for name, why in self.settings["constants"]["left_out"].items())
        )
