"""The t-SNE of Figure 2: where sentence embeddings lie, on a plane."""

import logging

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

log = logging.getLogger(__name__)


def capped_perplexity(perplexity: float, points: int) -> float:
    """The perplexity that `points` allow.

    Barnes-Hut t-SNE looks at three times as many neighbours as the perplexity asks
    for (van der Maaten 2014, section 4.1), and a point has `points - 1` of them.
    """
    return min(perplexity, (points - 1) / 3)


def project(
    teacher: np.ndarray, student: np.ndarray, *, perplexity: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets on one plane, fitted jointly so that distances between them count.

    Args:
        teacher: (n, hidden).
        student: (m, hidden).
        perplexity: lowered by `capped_perplexity` where the points are few.
        seed: of t-SNE.

    Returns:
        (n, 2) and (m, 2).
    """
    points = np.concatenate([teacher, student]).astype(np.float64)
    allowed = capped_perplexity(perplexity, len(points))
    if allowed < perplexity:
        log.info(
            "t-SNE: perplexity %g lowered to %g for %d points",
            perplexity,
            allowed,
            len(points),
        )
    tsne = TSNE(n_components=2, perplexity=allowed, init="pca", random_state=seed)
    # Several threads sum the gradient in any order, and t-SNE magnifies the rounding.
    with threadpool_limits(limits=1):
        placed = tsne.fit_transform(points)
    return placed[: len(teacher)], placed[len(teacher) :]
