"""Things of which only the distances are known: in the plane, and in clusters. scikit-learn does both."""

from __future__ import annotations

import math

import numpy as np

from interp.errors import InputError

MOST_CLUSTERS = 12
"""The largest number of clusters that is tried where none is asked for."""


def check_sklearn() -> None:
    """Refuse to begin without scikit-learn.

    Raises:
        InputError: it is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise InputError("this needs scikit-learn: pip install 'interp[analysis]'") from None


def in_plane(distances: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Metric multidimensional scaling of distances [N, N]: places [N, 2], and Kruskal's stress-1.

    The best of four random starts from ``seed``.
    """
    from sklearn.manifold import MDS

    if not distances.any():
        return np.zeros((len(distances), 2)), 0.0
    # Every option whose default changes between releases is named.
    scaling = MDS(
        n_components=2,
        metric_mds=True,
        metric="precomputed",
        n_init=4,
        init="random",
        max_iter=1000,
        eps=1e-9,
        normalized_stress=True,  # pyright: ignore[reportArgumentType]
        random_state=seed,
    )
    place = np.asarray(scaling.fit_transform(distances), dtype=np.float64)
    assert scaling.stress_ is not None
    return place, float(scaling.stress_)


def clustered(distances: np.ndarray, wanted: int | None) -> np.ndarray:
    """The cluster of each of N things, numbered by size from the largest on; of equal sizes, the one with the first thing.

    Agglomerative, by average linkage. wanted: how many; None: the number from 2 to 12 (below N) with the largest mean silhouette,
    the smaller of equal ones.
    """
    from sklearn.metrics import silhouette_score

    count = len(distances)
    if wanted is None:
        best, found = -math.inf, np.zeros(count, dtype=np.int64)
        for number in range(2, min(MOST_CLUSTERS, count - 1) + 1):
            labels = _linked(distances, number)
            score = float(silhouette_score(distances, labels, metric="precomputed"))
            if score > best:
                best, found = score, labels
    else:
        found = _linked(distances, wanted)
    labels = found.tolist()
    order = sorted(set(labels), key=lambda label: (-labels.count(label), labels.index(label)))
    return np.array([order.index(label) for label in labels])


def _linked(distances: np.ndarray, number: int) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(n_clusters=number, metric="precomputed", linkage="average").fit_predict(distances)
