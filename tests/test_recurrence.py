"""Recurrence with its gradient written out: PyTorch's, in double precision."""

import torch
from torch import nn

from stages.pretraining.recurrence import BidirectionalGRU


def test_it_is_the_bidirectional_gru_of_pytorch_and_its_gradients() -> None:
    torch.manual_seed(0)
    ours = BidirectionalGRU(5, 4).double()
    theirs = nn.GRU(5, 4, batch_first=True, bidirectional=True).double()
    theirs.load_state_dict(ours.state_dict())
    factors = torch.randn(3, 9, 8, dtype=torch.float64)
    inputs = torch.randn(3, 9, 5, dtype=torch.float64)
    found, expected = [], []
    for layer, results in ((ours, found), (theirs, expected)):
        frames = inputs.clone().requires_grad_()
        states, _ = layer(frames)
        (states * factors).sum().backward()
        results += [states, frames.grad, *(one.grad for one in layer.parameters())]
    assert len(found) == 10
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_one_frame_is_a_sequence() -> None:
    layer = BidirectionalGRU(2, 3)
    frame = torch.randn(1, 1, 2)
    expected, _ = nn.GRU.forward(layer, frame)
    torch.testing.assert_close(layer(frame)[0], expected)
