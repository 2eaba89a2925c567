"""Gated recurrent units with the gradient written out, several of them at once."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Recurrence(torch.autograd.Function):
    """G GRUs, each with weights of its own, over the frames of a batch each.

    As PyTorch's GRU, from x, the affine image of a frame, and the state h before it:

        r, u = σ(x_r + W_r h + b_r), σ(x_u + W_u h + b_u)
        n = tanh(x_n + r (W_n h + b_n))
        h ← n + u (h - n)

    The gradient is written out since autograd would add up that of W frame by frame;
    here it is one product, and a frame takes two operations.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The states h (G, frames, batch, width).

        Args:
            ctx: keeps what `backward` needs.
            inputs: x of r, u and n (G, frames, batch, 3 · width).
            weight: W (G, 3 · width, width).
            bias: b (G, 3 · width).
        """
        count, frames, batch, _ = inputs.shape
        width = weight.shape[2]
        states = inputs.new_zeros(count, frames + 1, batch, width)  # from h = 0
        gates = torch.empty_like(inputs)  # r, u, n
        hidden = inputs.new_empty(count, frames, batch, width)  # W_n h + b_n
        transposed, bias = weight.mT, bias[:, None]
        for step in range(frames):
            x, gate = inputs[:, step], gates[:, step]
            product = torch.baddbmm(bias, states[:, step], transposed)
            both, new = gate[..., : 2 * width], gate[..., 2 * width :]
            torch.add(x[..., : 2 * width], product[..., : 2 * width], out=both)
            both.sigmoid_()
            hidden[:, step] = product[..., 2 * width :]
            torch.addcmul(
                x[..., 2 * width :], both[..., :width], hidden[:, step], out=new
            ).tanh_()
            torch.lerp(new, states[:, step], both[..., width:], out=states[:, step + 1])
        ctx.save_for_backward(weight, states, gates, hidden)
        return states[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of `forward`'s arguments from that of the states."""
        weight, states, gates, hidden = ctx.saved_tensors
        reset, update, new = gates.chunk(3, dim=-1)
        before = states[:, :-1]
        # What the gradient of h is multiplied with for those of the gates' arguments.
        to_new = (1 - update) * (1 - new.square())
        by_hidden = torch.stack(
            [
                to_new * hidden * reset * (1 - reset),
                (before - new) * update * (1 - update),
                to_new * reset,
            ],
            dim=3,
        )  # (G, frames, batch, 3, width)
        by_state = torch.empty_like(hidden)
        by_state[:, -1] = by_states[:, -1]
        for step in range(hidden.shape[1] - 1, -1, -1):
            gradient, product = by_state[:, step], by_hidden[:, step]
            product.mul_(gradient[:, :, None])
            if step:
                kept = torch.addcmul(by_states[:, step - 1], gradient, update[:, step])
                by_state[:, step - 1] = torch.baddbmm(kept, product.flatten(2), weight)
        by_inputs = by_hidden.clone()
        torch.mul(by_state, to_new, out=by_inputs[:, :, :, 2])
        rows = by_hidden.flatten(3).flatten(1, 2)  # (G, frames · batch, 3 · width)
        by_weight = rows.mT @ before.flatten(1, 2)
        return by_inputs.flatten(3), by_weight, rows.sum(1)


class BidirectionalGRU(nn.GRU):
    """One layer of PyTorch's GRU in both directions, batch first.

    The weights, their names and what comes out up to rounding are those of `nn.GRU`;
    on a CPU it trains faster. It takes no packed sequences.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width, batch_first=True, bidirectional=True)

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        """(batch, frames, inputs) -> (batch, frames, 2 * width), from a state of 0."""
        own = dict(self.named_parameters())

        def ways(name: str) -> list[Tensor]:
            return [own[f"{name}_l0"], own[f"{name}_l0_reverse"]]

        weights, biases = torch.cat(ways("weight_ih")), torch.cat(ways("bias_ih"))
        gates = functional.linear(frames.transpose(0, 1), weights, biases)
        there, back = gates.chunk(2, dim=2)  # (frames, batch, 3 * width)
        states = Recurrence.apply(
            torch.stack([there, back.flip(0)]),
            torch.stack(ways("weight_hh")),
            torch.stack(ways("bias_hh")),
        )
        both = torch.cat([states[0], states[1].flip(0)], dim=2)
        return both.transpose(0, 1), None
