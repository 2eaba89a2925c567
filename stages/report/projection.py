"""Figure 2 of the paper: the sentence embeddings of teacher and student, by t-SNE."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from stages.report.params import ReportParams

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embeddings:
    """Sentence embeddings of the valid utterances.

    Attributes:
        ids: of the utterances, (n,).
        teacher: E_lang, (n, hidden).
        first: the student's pooled ê_lang after the first epoch, (n, hidden).
        last: the same after the last epoch, (n, hidden).
    """

    ids: np.ndarray
    teacher: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def transfer_loss(self) -> dict[str, float]:
        """Loss_TL (equation 1) after the first and after the last epoch."""
        students = {"first": self.first, "last": self.last}
        return {
            epoch: round(
                float(np.mean((student.astype(np.float64) - self.teacher) ** 2)), 6
            )
            for epoch, student in students.items()
        }


@dataclass(frozen=True)
class Projection:
    """Figure 2.

    Attributes:
        panels: a plot per epoch, by title: the points of the teacher and of the
            student, (n, 2) each.
        intents: of the points, (n,); in a corpus with slots values of the first.
        shown: the distinct ones, in the order of their colours.
        asked: the perplexity in the parameters.
        perplexity: the one used, lower if there are few points.
    """

    panels: dict[str, tuple[np.ndarray, np.ndarray]]
    intents: np.ndarray
    shown: list[str]
    asked: float
    perplexity: float


def read_embeddings(folder: Path) -> Embeddings:
    """The embeddings in the folder of an ALN or ALN linguistic student."""
    with np.load(folder / "embeddings.npz", allow_pickle=False) as archive:
        return Embeddings(
            archive["ids"].astype(str),
            archive["teacher"],
            archive["student_first"],
            archive["student_last"],
        )


def project_embeddings(
    embeddings: Embeddings, intents: Mapping[str, str], params: ReportParams
) -> Projection:
    """Both epochs on a plane each, for the most frequent intents.

    Args:
        embeddings: of teacher and student.
        intents: by id.
        params: how many intents, perplexity and seed.
    """
    labels = np.array([intents[identifier] for identifier in embeddings.ids])
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: params.tsne_intents]
    shown = sorted(str(value) for value in values[order])
    chosen = np.isin(labels, shown)
    asked = params.tsne_perplexity
    perplexity = capped_perplexity(asked, 2 * int(chosen.sum()))
    if perplexity < asked:
        log.info("t-SNE: perplexity lowered to %g for few points", perplexity)
    epochs = {"(a) first epoch": embeddings.first, "(b) last epoch": embeddings.last}
    panels = {
        title: project(
            embeddings.teacher[chosen],
            student[chosen],
            perplexity=perplexity,
            seed=params.seed,
        )
        for title, student in epochs.items()
    }
    return Projection(panels, labels[chosen], shown, asked, perplexity)


def capped_perplexity(perplexity: float, points: int) -> float:
    """The highest perplexity up to `perplexity` that works with so many points.

    Barnes-Hut t-SNE looks at three times as many neighbours as the perplexity (van der
    Maaten 2014, section 4.1), and a point has `points - 1` of them.
    """
    return min(perplexity, (points - 1) / 3)


def project(
    teacher: np.ndarray, student: np.ndarray, *, perplexity: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets on one plane, fitted jointly so that distances between them count.

    Args:
        teacher: (n, hidden).
        student: (m, hidden).
        perplexity: of t-SNE, at most `capped_perplexity` of n + m points.
        seed: of t-SNE.

    Returns:
        (n, 2) and (m, 2).
    """
    points = np.concatenate([teacher, student]).astype(np.float64)
    tsne = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
    # Several threads sum the gradient in any order, and t-SNE magnifies the rounding.
    with threadpool_limits(limits=1):
        placed = tsne.fit_transform(points)
    return placed[: len(teacher)], placed[len(teacher) :]
