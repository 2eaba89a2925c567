"""More from the same features: batches changed at random, in training only."""

from dataclasses import replace

import torch
from torch import Tensor

from stages.student.batches import Batch
from stages.student.model import frame_mask
from stages.student.params import StudentParams


def augment(batch: Batch, params: StudentParams, generator: torch.Generator) -> Batch:
    """`batch` after what `params` turn on; nothing is drawn for what is off."""
    if params.frame_dropout:
        batch = drop_frames(batch, params.frame_dropout, generator)
    if params.feature_masking:
        batch = mask_features(batch, params.feature_masking, generator)
    return batch


def drop_frames(batch: Batch, share: float, generator: torch.Generator) -> Batch:
    """`batch` without a random `share` of its frames; of each utterance one stays."""
    steps = torch.arange(batch.features.shape[1])
    present = steps < batch.lengths[:, None]  # (batch, frames)
    draws = torch.rand(present.shape, generator=generator).masked_fill(~present, -1)
    most = draws.amax(1, keepdim=True)
    kept = present & ((draws >= share) | (draws == most))
    lengths = kept.sum(1)
    # The kept frames first, in their order; then, as in every batch, the last of them.
    order = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    within = torch.minimum(steps[: int(lengths.max())], lengths[:, None] - 1)
    places = order.gather(1, within).to(batch.features.device)[..., None]
    features = batch.features.take_along_dim(places, 1)
    return replace(
        batch, features=features, means=_means(features, lengths), lengths=lengths
    )


def mask_features(batch: Batch, largest: float, generator: torch.Generator) -> Batch:
    """`batch` with random features constant: each is its mean over the utterance.

    The share of masked features is drawn for each utterance, from 0 to `largest`.
    """
    shares = largest * torch.rand(len(batch.means), 1, generator=generator)
    draws = torch.rand(batch.means.shape, generator=generator)
    masked = (draws < shares).to(batch.means.device)  # (batch, D)
    features = torch.where(masked[:, None], batch.means[:, None], batch.features)
    return replace(batch, features=features)


def _means(features: Tensor, lengths: Tensor) -> Tensor:
    """Of each utterance's frames (batch, D), without padding."""
    present = frame_mask(lengths, features)[..., None]
    return (features * present).sum(1) / present.sum(1)
