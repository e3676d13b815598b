import pytest
import torch
from torch import nn

from merlin_hf.transfer.balance import at_chance, balance, gradient_ratio
from merlin_hf.transfer.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, task_loss


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


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL, REGRESSION])
def test_at_chance_is_the_loss_of_a_model_that_says_nothing(problem_type):
    generator = torch.Generator().manual_seed(0)
    labels = {
        SINGLE_LABEL: torch.arange(6) % 3,
        MULTI_LABEL: torch.randint(0, 2, (6, 3), generator=generator).float(),
        REGRESSION: torch.arange(6.0),
    }[problem_type]
    logits = torch.randn(6, 1 if problem_type == REGRESSION else 3, generator=generator)
    expected = torch.full_like(logits, 2.5 if problem_type == REGRESSION else 0.0)
    loss, guess = at_chance(lambda x, y: task_loss(x, y, problem_type), logits, labels)
    torch.testing.assert_close(guess.detach(), expected)
    assert loss.item() == pytest.approx(task_loss(expected, labels, problem_type).item())
    assert torch.autograd.grad(loss, guess)[0].any()


def test_a_solved_source_leaves_the_meta_loss_its_say_at_chance():
    labels, weight = torch.arange(6) % 3, torch.eye(3)
    logits = (20 * torch.eye(3)[labels]).requires_grad_()
    meta_gradient = torch.full((6, 3), 0.01)
    current = gradient_ratio(nn.functional.cross_entropy(logits, labels), logits, weight, meta_gradient)
    chance = gradient_ratio(*at_chance(nn.functional.cross_entropy, logits, labels), weight, meta_gradient)
    assert current.item() < 1e-6 and chance.item() == 1.0
