"""The tables of a batch in SQL: what each view is, as DuckDB is told. docs/batch.md describes their columns.

``scores``, ``inputs``, ``left_out``, ``units`` and ``errors`` are what is stored; these are made of them.
"""

from __future__ import annotations

HEADS = """
select model, checkpoint, step, detector, layer, head, mean as score,
       case when inputs = 1 then one_stderr
            else sqrt(inputs / (inputs - 1) * sum_squares) / samples end as stderr,
       chance, threshold, mean > threshold as is_above, samples, inputs
from (
    select model, checkpoint, step, detector, layer, head,
           any_value(mean) as mean, any_value(threshold) as threshold,
           fsum(chance * samples) / sum(samples) filter (where chance is not null) as chance,
           sum(samples) as samples, count(*) as inputs, any_value(stderr) as one_stderr,
           fsum((samples * (score - mean)) ** 2) as sum_squares
    from (
        select *, fsum(score * samples) over same / sum(samples) over same as mean
        from scores
        where score is not null
        window same as (partition by model, checkpoint, detector, layer, head)
    )
    group by all
)
"""
"""Each head's score over all inputs of a checkpoint: the mean over samples. Its standard error takes an input (a document, or
the draw of a seed) as what was drawn: sqrt(n / (n - 1) sum_d (w_d (x_d - mean))^2) / sum_d w_d, w_d the samples of input d. Of
a single input it is that over its samples. Sums are compensated (fsum), so that the order of threads hardly ever changes a last
digit, and ties stay ties."""

STRONGEST = """
select model, checkpoint, step, detector,
       row_number() over (partition by model, checkpoint, detector order by score desc, layer, head) as place,
       'L' || layer || 'H' || head as name, layer, head, score, stderr, chance, threshold, is_above
from heads
qualify place <= 10
order by model, step, checkpoint, detector, place
"""
"""The ten strongest heads of each checkpoint and detector."""

EMERGENCE = """
select model, detector, layer, head, 'L' || layer || 'H' || head as name, step, checkpoint, score, stderr, chance, is_above,
       max(score) over (partition by model, detector, layer, head) as highest,
       min(step) filter (is_above) over (partition by model, detector, layer, head) as first_above
from heads
where step is not null
order by model, detector, layer, head, step
"""
"""Each head over the checkpoints of its model. first_above: the first step at which its score is above the threshold."""

AGREEMENT = """
with ranked as (
    select model, checkpoint, step, detector, layer, head, score
    from heads
),
pairs as (
    select a.model, a.checkpoint, a.step, a.detector as first, b.detector as second, a.score as x, b.score as y
    from ranked a join ranked b
      on a.model = b.model and a.checkpoint = b.checkpoint and a.layer = b.layer and a.head = b.head
     and a.detector < b.detector
),
ranks as (
    select model, checkpoint, step, first, second,
           rank() over (partition by model, checkpoint, first, second order by x)
             + (count(*) over (partition by model, checkpoint, first, second, x) - 1) / 2 as x,
           rank() over (partition by model, checkpoint, first, second order by y)
             + (count(*) over (partition by model, checkpoint, first, second, y) - 1) / 2 as y
    from pairs
)
select model, checkpoint, step, first, second,
       case when min(x) < max(x) and min(y) < max(y) then corr(x, y) end as rank_correlation, count(*) as heads
from ranks
group by model, checkpoint, step, first, second
order by model, step, checkpoint, first, second
"""
"""Spearman's rank correlation of two detectors over the heads of a checkpoint that both score; equal scores share their mean
rank. Null where one of them scores all heads alike."""

VIEWS: dict[str, str] = {"heads": HEADS, "strongest": STRONGEST, "emergence": EMERGENCE, "agreement": AGREEMENT}
"""In the order in which they are made: each may use those before it."""
