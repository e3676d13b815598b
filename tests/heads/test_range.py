"""Features, means and penalties that a float32 can hold and its square cannot: the logits of float64, or a refusal."""

import pytest
import torch

from merlin_hf.heads import LinearHead, get_head
from tests.fuzz import heads as fuzz


SOLVERS = ("ridge", "centroid", "logistic")


def problem(n=12, d=5, classes=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return features.to(dtype), torch.eye(classes, dtype=dtype)[torch.arange(n) % classes]


def test_a_slice_of_the_fuzzer_finds_nothing(capsys):
    status = fuzz.main(["--count", "300", "--verbose"])
    assert status == 0, capsys.readouterr().out


def test_the_fuzzer_finds_a_wrong_head(monkeypatch, capsys):
    """Without the units that squares fit in, as it once was."""
    monkeypatch.setattr(LinearHead, "__call__", lambda self, features: features @ self.weight.mT)
    monkeypatch.setattr("merlin_hf.heads.base.StandardHead.__call__", LinearHead.__call__)
    assert fuzz.main(["--count", "40"]) == 1
    assert "wrong logits 0," not in capsys.readouterr().out


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("d", [5, 30])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_logits_and_gradients_do_not_depend_on_the_scale(name, d, scale):
    features, targets = problem(d=d)

    def logits_and_gradient(features, targets, factor):
        features = features.requires_grad_()
        logits = get_head(name).fit(features, targets, 0.5)(features)
        weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
        (of_features,) = torch.autograd.grad((logits * weights).sum(), features)
        return logits.double(), of_features.double() * factor

    expected = logits_and_gradient(features.clone(), targets, 1.0)
    found = logits_and_gradient((features * scale).float(), targets.float(), scale)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("whole_set", [False, True])
def test_a_mean_a_million_times_the_spread(name, whole_set):
    features, targets = problem()
    features = (features + 1e6).float()
    solver = get_head(name)
    expected = solver.fit(features.double() - features.double().mean(0), targets, 0.5)(
        features.double() - features.double().mean(0)
    )
    if whole_set:
        with pytest.warns(RuntimeWarning, match="mean is so much larger than their spread"):
            head = solver.fit_batches([(features, targets.float(), None)], 0.5)
    else:
        head = solver.fit(features, targets.float(), 0.5)
    torch.testing.assert_close(head(features).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("d", [5, 30])
def test_a_row_far_away_does_not_hide_the_others_from_the_sets_that_leave_it_out(name, d):
    features, targets = problem(d=d, dtype=torch.float32)
    features[-1] *= 1e12
    weight = torch.ones(2, 12)
    weight[0, -1] = 0
    solver = get_head(name)
    both = solver.fit(features, targets, 0.5, weight)(features)[:, :-1]
    for found, rows in zip(both, weight, strict=True):
        torch.testing.assert_close(found, solver.fit(features, targets, 0.5, rows)(features)[:-1])
    assert both[0].std(0).min() > 0.1


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_columns_of_different_scales(fit_intercept):
    features, targets = problem(n=20)
    features = (features * torch.logspace(-10, 10, 5, dtype=torch.float64)).float()
    expected = get_head("ridge", fit_intercept=fit_intercept).fit(features.double(), targets, 0.5)(features.double())
    found = get_head("ridge", fit_intercept=fit_intercept).fit(features, targets.float(), 0.5)(features)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n, d", [(6, 9), (9, 4)])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_ridge_under_a_tiny_l2_interpolates_or_is_least_squares(n, d, fit_intercept):
    features, targets = problem(n, d)
    features = features + 1
    head = get_head("ridge", fit_intercept=fit_intercept).fit(features, targets, 1e-12)
    rows = torch.cat([features, torch.ones(n, int(fit_intercept), dtype=torch.float64)], 1)
    expected = rows @ torch.linalg.lstsq(rows, targets, driver="gelsd").solution
    torch.testing.assert_close(head(features), expected, atol=1e-6, rtol=1e-6)
    with pytest.warns(RuntimeWarning, match="l2=1e-12 is so small that rounding may show"):
        whole = get_head("ridge", fit_intercept=fit_intercept).fit_batches([(features, targets, None)], 1e-12)
    torch.testing.assert_close(whole(features), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n, d", [(6, 9), (9, 4)])
def test_gradients_of_ridge_by_singular_values(n, d, monkeypatch):
    monkeypatch.setattr("merlin_hf.heads.ridge.CHOLESKY_L2_PER_ROW", 1.0)
    features, targets = problem(n, d, 2)
    weight = torch.rand(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1

    def fit(features, targets, weight):
        head = get_head("ridge").fit(features, targets, 0.3, weight)
        return head.weight, head.bias

    inputs = [tensor.requires_grad_() for tensor in (features, targets, weight)]
    assert torch.autograd.gradcheck(fit, inputs)
    found = fit(*inputs)
    monkeypatch.setattr("merlin_hf.heads.ridge.CHOLESKY_L2_PER_ROW", 0.0)
    torch.testing.assert_close(found, fit(*inputs))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x, y, 1e-31), "l2=1e-31 must be a finite number .* from 1e-30 to 1e30"),
        (lambda x, y: (x, y, 1e31), "from 1e-30 to 1e30"),
        (lambda x, y: (x * 1e-41, y, 1.0), "features differ by less than"),
    ],
)
def test_what_is_out_of_range_is_refused(name, change, message):
    features, targets, l2 = change(*problem(dtype=torch.float32))
    with pytest.raises(ValueError, match=message):
        get_head(name).fit(features, targets, l2)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_largest_float32(name):
    """It is solved in float64, and refused in float32, where no difference of two such rows is finite."""
    features, targets = problem(dtype=torch.float32)
    features = features.sign() * 3e38
    if name == "logistic":
        expected = get_head(name).fit(features.sign(), targets, 1.0)(features.sign())
        torch.testing.assert_close(get_head(name).fit(features, targets, 1.0)(features), expected)
    else:
        with pytest.raises(ValueError, match="features differ by more than the range of torch.float32"):
            get_head(name).fit(features, targets, 1.0)


def test_an_l2_that_rounding_hides_is_refused():
    features, targets = problem()
    with pytest.raises(
        ValueError, match="l2=1e-12 is too small for logistic regression on 12 rows: use at least 1e-08"
    ):
        get_head("logistic").fit(features, targets, 1e-12)
    with pytest.raises(ValueError, match="l2=1e-12 is too small to leave out one of 12 rows: use at least 1e-06"):
        get_head("ridge").leave_one_out(features, targets, 1e-12)


@pytest.mark.parametrize("whole_set", [False, True])
def test_a_label_without_negatives_under_weights_that_do_not_add_up_exactly(whole_set):
    features, _ = problem(n=40, dtype=torch.float32)
    weight = torch.rand(40, generator=torch.Generator().manual_seed(0))
    targets = torch.stack([torch.ones(40), torch.zeros(40)], 1)
    solver = get_head("centroid", problem_type="multi_label_classification")
    head = (
        solver.fit_batches([(features, targets, weight)], 1e-6)
        if whole_set
        else solver.fit(features, targets, 1e-6, weight)
    )
    torch.testing.assert_close(head(features), torch.tensor([1.0, -1.0]).expand(40, -1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_weight_bias_and_logits_agree(name):
    features, targets = problem(dtype=torch.float32)
    features = features * 1e-9 + 3e-9
    head = get_head(name).fit(features, targets, 0.5)
    plain = LinearHead(head.weight, head.bias)
    torch.testing.assert_close(plain(features), head(features), atol=1e-4, rtol=1e-4)
    change = torch.tensor([1.0, -2.0, 0.5])
    for other in (head, plain):
        torch.testing.assert_close(other.add_to_bias(change)(features), other(features) + change)
        torch.testing.assert_close(other.add_to_bias(change).bias, other.bias + change)
        assert other.to(torch.float64)(features).dtype == torch.float64
    features.requires_grad_()
    fitted = get_head(name).fit(features, targets, 0.5)
    detached = fitted.detach()
    assert fitted(features.detach()).requires_grad and not detached(features.detach()).requires_grad
    torch.testing.assert_close(detached(features), fitted(features))


def test_targets_that_do_not_add_up_to_one_exactly_move_no_logit():
    features, targets = problem(dtype=torch.float32)
    soft = (0.8 * targets + 0.2 / 3) * 1.001
    logits = get_head("logistic", fit_intercept=False).fit(features, soft, 1e-3)(features)
    torch.testing.assert_close(logits.sum(-1), torch.zeros(12), atol=1e-4, rtol=0)
