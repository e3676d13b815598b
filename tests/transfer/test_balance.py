import pytest
import torch
from torch import nn

from merlin_hf.transfer.balance import balance, gradient_ratio


@pytest.mark.parametrize("meta_factor", [1e-3, 3.0, 1e3])
def test_ratio_of_the_gradients_at_the_features(meta_factor):
    generator = torch.Generator().manual_seed(0)
    source, target, weight = (torch.randn(*s, generator=generator) for s in ((7, 5), (9, 5), (3, 5)))
    source.requires_grad_()
    target.requires_grad_()
    scale, unused = (torch.tensor(value, requires_grad=True) for value in (1.5, 2.0))

    def losses():
        logits = source @ weight.T
        source_loss = nn.functional.cross_entropy(logits, torch.arange(7) % 3)
        return logits, source_loss, meta_factor * (scale * target).square().mean()

    logits, source_loss, meta_loss = losses()
    ratio, known = balance(source_loss, logits, weight @ weight.T, meta_loss, target, [scale, unused])
    (source_loss + 0.7 * known).backward()
    found = [tensor.grad.clone() for tensor in (source, target, scale)]

    for tensor in (source, target, scale):
        tensor.grad = None
    _, source_loss, meta_loss = losses()
    assert known.item() == meta_loss.item()
    (source_loss + 0.7 * meta_loss).backward()
    torch.testing.assert_close(found, [tensor.grad for tensor in (source, target, scale)])
    expected = source.grad.norm(dim=-1).sum() / (target.grad / 0.7).norm(dim=-1).sum()
    torch.testing.assert_close(ratio, expected.clamp(max=1.0))
    assert not ratio.requires_grad and unused.grad.item() == 0.0


def test_no_gradient_of_the_meta_loss_is_no_division_by_zero():
    logits = torch.zeros(2, 2, requires_grad=True)
    ratio = gradient_ratio(logits.sum(), logits, torch.eye(2), torch.zeros(2, 3))
    assert ratio.item() == 1.0
