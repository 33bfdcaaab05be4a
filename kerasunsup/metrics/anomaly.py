"""How well a score separates anomalies from normal examples."""

from __future__ import annotations

import numpy as np

from kerasunsup.errors import InputError


def auroc(scores: np.ndarray, is_anomaly: np.ndarray) -> float:
    """Area under the ROC curve: the chance that an anomaly scores above a normal example.

    Equal scores count one half. 0.5 is chance.

    Args:
        scores: Anomaly scores, `(n,)`, higher is stranger.
        is_anomaly: True for anomalies, `(n,)`.

    Raises:
        InputError: There are no anomalies or no normal examples.
    """
    from sklearn.metrics import roc_auc_score

    is_anomaly = np.asarray(is_anomaly, bool)
    if is_anomaly.all() or not is_anomaly.any():
        raise InputError(
            "AUROC needs normal examples and anomalies. "
            f"Received: {int(is_anomaly.sum())} anomalies of {len(is_anomaly)} examples"
        )
    return float(roc_auc_score(is_anomaly, scores))


def knn_distance(train: np.ndarray, x: np.ndarray, k: int = 5) -> np.ndarray:
    """Mean Euclidean distance of each example to its `k` nearest in `train`, `(n,)`."""
    from sklearn.neighbors import NearestNeighbors

    finder = NearestNeighbors(n_neighbors=min(k, len(train)), algorithm="brute").fit(train)
    return finder.kneighbors(x)[0].mean(axis=1)
