"""Several students as one network: their parameters stacked, their products batched.

Of S students of one shape every parameter is one row of a matrix (S, P), and the
equations of `AcousticLinguisticNetwork.folded` are computed for all of them at once
with batched products, each student on utterances of its own. Nothing is summed over
students, so none of them reaches another one's values or gradients.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from stages.pretraining.recurrence import Recurrence
from stages.student.model import AcousticLinguisticNetwork, Output, attend

_EPSILON = 1e-8  # of Adam, PyTorch's default


class Maps(NamedTuple):
    """An affine map x -> weight · x + bias for each student."""

    weight: Tensor  # (S, out, in)
    bias: Tensor  # (S, out)

    def of(self, x: Tensor) -> Tensor:
        """The images (S, …, out) of x (S, …, in)."""
        flat = x.flatten(1, -2)
        images = torch.baddbmm(self.bias[:, None], flat, self.weight.mT)
        return images.unflatten(1, x.shape[1:-1])

    def after(self, inner: "Maps") -> "Maps":
        """The maps x -> self(inner(x))."""
        bias = self.of(inner.bias[:, None])[:, 0]
        return Maps(self.weight @ inner.weight, bias)


class StackedNetworks:
    """S networks of one shape.

    Args:
        models: alike but for the values of their parameters, and for dropout, which is
            given to `forward`.
    """

    def __init__(self, models: Sequence[AcousticLinguisticNetwork]) -> None:
        self.form = models[0]
        parameters = dict(self.form.named_parameters())
        self.shapes = {name: one.shape for name, one in parameters.items()}
        rows = [
            torch.cat([one.detach().flatten() for one in model.parameters()])
            for model in models
        ]
        self.values = torch.stack(rows)  # (S, P)
        ends = torch.tensor([0, *(one.numel() for one in parameters.values())])
        self._places = list(pairwise(ends.cumsum(0).tolist()))
        # They share the storage of `values`, (S, …), and gradients are taken of them.
        self.weights = {
            name: self.values[:, start:stop].unflatten(1, shape).detach()
            for (name, shape), (start, stop) in zip(
                self.shapes.items(), self._places, strict=True
            )
        }
        for one in self.weights.values():
            one.requires_grad_()

    def __len__(self) -> int:
        """S."""
        return len(self.values)

    def unstacked(self, row: Tensor) -> dict[str, Tensor]:
        """A row (P) of `values` as parameters by name, copied to the CPU."""
        return {
            name: row[start:stop].reshape(shape).cpu().clone()
            for (name, shape), (start, stop) in zip(
                self.shapes.items(), self._places, strict=True
            )
        }

    def gradients(self, losses: Tensor) -> Tensor:
        """Of each student's loss, `losses` (S), with respect to its row: (S, P).

        What a loss does not depend on gets zeros, so that Adam leaves it alone.
        """
        leaves = list(self.weights.values())
        # Another student's loss is a constant, and the sum's gradient each one's own.
        found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(leaf) if one is None else one).flatten(1)
                for leaf, one in zip(leaves, found, strict=True)
            ],
            dim=1,
        )

    def forward(
        self, features: Tensor, means: Tensor, lengths: Tensor, kept: Tensor | None
    ) -> Output:
        """`AcousticLinguisticNetwork.folded` of each student.

        Args:
            features: e_acoust (S, batch, frames, D), padded with any finite values.
            means: of each utterance's features over its frames (S, batch, D).
            lengths: frames of each utterance (S, batch), at least 1, on the device.
            kept: what dropout multiplies the pooled states with (S, batch, states);
                None for nothing.

        Returns:
            Logits (S, batch, intents) and Ê_lang (S, batch, H), None for baseline2.
        """
        form = self.form
        steps = torch.arange(features.shape[2], device=features.device)
        present = steps < lengths[..., None]  # (S, batch, frames)
        if form.system == "baseline2":
            return Output(self._classify(features, present, lengths, kept, None), None)
        transfer = self._maps("transfer")
        pooled = transfer.of(means)
        sequence, before = features, transfer
        if form.system == "aln":
            if form.mapping is not None:
                before = self._maps("mapping").after(transfer)
            if form.attention != "none":
                sequence, before = self._attend(features, present, before)
        logits = self._classify(sequence, present, lengths, kept, before)
        return Output(logits, pooled)

    def _attend(
        self, features: Tensor, present: Tensor, source: Maps
    ) -> tuple[Tensor, Maps]:
        """Eq. 2 on the features themselves, and the map from there to z."""
        query, key, values = (self._maps(name) for name in ("query", "key", "value"))
        keys = key.weight  # K (S, D, D)
        if self.form.attention == "cross":
            keys, values = keys @ source.weight, values.after(source)
        # From x to Kᵀ f_q(x)
        compared = Maps(keys.mT @ query.weight, (query.bias[:, None] @ keys)[:, 0])
        queries = compared.of(features)  # (S, batch, frames, D)
        flat = features.flatten(0, 1)
        context = attend(
            queries.flatten(0, 1), flat, flat, present.flatten(0, 1), self.form.scale
        )
        return context.unflatten(0, features.shape[:2]), values

    def _classify(
        self,
        sequence: Tensor,
        present: Tensor,
        lengths: Tensor,
        kept: Tensor | None,
        before: Maps | None,
    ) -> Tensor:
        """f(z) of eq. 3, `before` folded into the GRU: logits (S, batch, intents)."""
        width = self.form.gru.hidden_size
        suffixes = ("_l0", "_l0_reverse")[: 1 + self.form.gru.bidirectional]
        ways = len(suffixes)

        def every_way(name: str) -> Tensor:
            both = [self.weights[f"gru.{name}{suffix}"] for suffix in suffixes]
            return torch.cat(both, dim=1)  # (S, ways · 3 · width, …)

        inputs = Maps(every_way("weight_ih"), every_way("bias_ih"))
        gates = (inputs if before is None else inputs.after(before)).of(sequence)
        # (ways, S, frames, batch, 3 · width)
        gates = gates.unflatten(3, (ways, -1)).permute(3, 0, 2, 1, 4)
        there = present.mT.expand(ways, -1, -1, -1)  # (ways, S, frames, batch)
        if ways == 2:  # The second one reads from the end, padding first.
            gates = torch.stack([gates[0], gates[1].flip(1)])
            there = torch.stack([there[0], there[1].flip(1)])
        # An update gate of 1 keeps the state: at padding nothing happens, exactly.
        update = torch.arange(3, device=gates.device)[:, None] == 1
        absent = (~there[..., None, None] & update).expand(-1, -1, -1, -1, -1, width)
        gates = gates.masked_fill(absent.flatten(4), math.inf)
        recurrent, bias = (
            every_way(name).unflatten(1, (ways, -1)).transpose(0, 1).flatten(0, 1)
            for name in ("weight_hh", "bias_hh")
        )
        states: Tensor = Recurrence.apply(gates.flatten(0, 1), recurrent, bias)
        # (ways, S, frames, batch, width)
        states = states.unflatten(0, (ways, -1))
        if self.form.frame_pooling == "mean":
            pooled = states.masked_fill(~there[..., None], 0.0).sum(2)
            pooled = pooled / lengths[..., None]
        else:
            pooled = states.masked_fill(~there[..., None], -math.inf).amax(2)
        pooled = pooled.permute(1, 2, 0, 3).flatten(2)  # (S, batch, ways · width)
        if kept is not None:
            pooled = pooled * kept
        return self._maps("classifier").of(pooled)

    def _maps(self, name: str) -> Maps:
        return Maps(self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


class StackedAdam:
    """`torch.optim.Adam` of each student, with a learning rate of its own.

    Args:
        values: what is trained, (S, P), changed in place.
        rates: learning rates (S).
        betas: β₁ and β₂, common to all.
    """

    def __init__(
        self, values: Tensor, rates: Sequence[float], betas: Sequence[float]
    ) -> None:
        self.values, self.betas = values, tuple(betas)
        self.average = torch.zeros_like(values)  # of the gradient
        self.square = torch.zeros_like(values)  # of its square
        # On the device, since a captured step goes on from them.
        wide = {"dtype": torch.float64, "device": values.device}
        self._rates = torch.tensor(rates, **wide)[:, None]  # type: ignore[arg-type]
        self._betas = torch.tensor(self.betas, **wide)  # type: ignore[arg-type]
        self._powers = torch.ones_like(self._betas)  # β₁ⁿ and β₂ⁿ after n steps

    def state(self) -> list[Tensor]:
        """What it goes on from, but for the values; on the CPU."""
        return [one.cpu() for one in (self.average, self.square, self._powers)]

    def set_state(self, state: Sequence[Tensor]) -> None:
        """Go on from `state`."""
        # In place: a captured step knows them by their memory.
        for own, one in zip(
            (self.average, self.square, self._powers), state, strict=True
        ):
            own.copy_(one)

    @torch.no_grad()
    def step(self, gradients: Tensor) -> None:
        """Take one step along `gradients` (S, P)."""
        first, second = self.betas
        self._powers.mul_(self._betas)
        corrections = 1 - self._powers
        self.average.lerp_(gradients, 1 - first)
        self.square.mul_(second).addcmul_(gradients, gradients, value=1 - second)
        root = corrections[1].sqrt().to(self.values.dtype)
        size = (self._rates / corrections[0]).to(self.values.dtype)  # (S, 1)
        divisor = self.square.sqrt().div_(root).add_(_EPSILON)
        self.values.sub_((self.average / divisor).mul_(size))
