import pytest
import torch
from torch import nn

from merlin_hf.transfer.balance import gradient_ratio


@pytest.mark.parametrize("meta_factor", [1e-3, 3.0, 1e3])
def test_ratio_of_the_gradients_at_the_features(meta_factor):
    generator = torch.Generator().manual_seed(0)
    source, target, weight = (torch.randn(*s, generator=generator) for s in ((7, 5), (9, 5), (3, 5)))
    source.requires_grad_()
    target.requires_grad_()
    logits = source @ weight.T
    source_loss = nn.functional.cross_entropy(logits, torch.arange(7) % 3)
    meta_loss = meta_factor * target.square().mean()
    ratio = gradient_ratio(source_loss, logits, weight @ weight.T, meta_loss, target)

    (source_loss + meta_loss).backward()
    expected = source.grad.norm(dim=-1).sum() / target.grad.norm(dim=-1).sum()
    torch.testing.assert_close(ratio, expected.clamp(max=1.0))
    assert not ratio.requires_grad


def test_no_gradient_of_the_meta_loss_is_no_division_by_zero():
    logits = torch.zeros(2, 2, requires_grad=True)
    features = torch.zeros(2, 3, requires_grad=True)
    ratio = gradient_ratio(logits.sum(), logits, torch.eye(2), 0 * features.sum(), features)
    assert ratio.item() == 1.0
