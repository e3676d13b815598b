import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from merlin_hf.heads import RidgeHead


def reference(features, targets, l2, weight, fit_intercept, scale=None):
    """scikit-learn's answer in float64, with the penalty of this package."""
    x, y, w = (t.detach().double() for t in (features, targets, weight))
    mean = (w @ x) / w.sum() if fit_intercept else 0.0
    if scale is None:
        scale = (w @ (x - mean).square().sum(1)) / w.sum()
    model = Ridge(alpha=float(l2 * scale), fit_intercept=fit_intercept, solver="cholesky")
    model.fit(x.numpy(), y.numpy(), sample_weight=w.numpy())
    return torch.as_tensor(model.coef_).reshape(y.shape[1], -1), torch.as_tensor(model.intercept_), float(scale)


def problem(seed, n, d, classes, dtype=torch.float64, weighted=True):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=dtype) + 2
    targets = torch.randn(n, classes, generator=generator, dtype=dtype)
    weight = torch.rand(n, generator=generator, dtype=dtype) + 0.1 if weighted else torch.ones(n, dtype=dtype)
    return features, targets, weight


shapes = st.tuples(st.integers(2, 24), st.integers(1, 24), st.sampled_from([1, 2, 5]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes, st.integers(0, 10**6), st.sampled_from([1e-6, 1e-3, 1.0, 100.0]), st.booleans())
def test_equals_scikit_learn(shape, seed, l2, fit_intercept):
    features, targets, weight = problem(seed, *shape)
    head = RidgeHead(fit_intercept=fit_intercept).fit(features, targets, l2, weight)
    coef, intercept, _ = reference(features, targets, l2, weight, fit_intercept)
    torch.testing.assert_close(head(features), features @ coef.T + intercept, atol=1e-7, rtol=1e-7)
    if l2 >= 1e-3:
        torch.testing.assert_close(head.weight, coef, atol=1e-8, rtol=1e-8)
    assert head.info["solver_failures"] == 0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shapes, st.integers(0, 10**6))
def test_duplicated_rows_are_rows_of_weight_two(shape, seed):
    features, targets, _ = problem(seed, *shape)
    twice = RidgeHead().fit(torch.cat([features, features[:2]]), torch.cat([targets, targets[:2]]), 0.1)
    weight = torch.ones(len(features), dtype=torch.float64)
    weight[:2] = 2
    weighted = RidgeHead().fit(features, targets, 0.1, weight)
    torch.testing.assert_close(twice(features), weighted(features), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("n, d", [(6, 9), (6, 6), (9, 4)])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_gradients(n, d, fit_intercept):
    features, targets, weight = problem(3, n, d, 2)
    solver = RidgeHead(fit_intercept=fit_intercept)

    def fit(features, targets, weight):
        head = solver.fit(features, targets, 0.3, weight)
        return head.weight, head.bias

    inputs = [t.requires_grad_() for t in (features, targets, weight)]
    assert torch.autograd.gradcheck(fit, inputs)
    assert torch.autograd.gradgradcheck(fit, inputs)


@pytest.mark.parametrize("n, d", [(6, 9), (9, 4)])
def test_gradients_with_shared_features(n, d):
    features, targets, _ = problem(3, n, d, 2)
    weight = torch.rand(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    weight[0, 1] = weight[2, 3] = 0

    def fit(features, targets):
        head = RidgeHead().fit(features, targets, 0.3, weight)
        return head.weight, head.bias

    assert torch.autograd.gradcheck(fit, [features.requires_grad_(), targets.requires_grad_()])


@pytest.mark.parametrize("n, d, classes", [(32, 768, 3), (512, 768, 3), (768, 512, 200), (64, 64, 3)])
@pytest.mark.parametrize("per_row", [1e-4, 1e-2])
@pytest.mark.parametrize("decades", [0, 3])
def test_float32_is_enough_above_the_bound(n, d, classes, per_row, decades):
    features, targets, _ = problem(0, n, d, classes, dtype=torch.float32, weighted=False)
    features = (features - 2) * torch.logspace(0, -decades, d) + 0.5
    single = RidgeHead().fit(features, targets, 1.01 * per_row * n)
    exact = RidgeHead().fit(features.double(), targets.double(), 1.01 * per_row * n)
    error = (single.weight - exact.weight).norm() / exact.weight.norm()
    assert 1e-8 < error < 1e-4


def test_a_small_l2_is_solved_in_double():
    features, targets, _ = problem(0, 512, 512, 3, weighted=False)
    features, targets = features.float(), targets.float()
    exact = RidgeHead().fit(features.double(), targets.double(), 1e-5).weight.float()
    error = {
        name: float((solver.fit(features, targets, l2).weight - exact).norm() / exact.norm())
        for name, solver, l2 in [
            ("default", RidgeHead(), 1e-5),
            ("float32", RidgeHead(dtype=torch.float32), 1e-5),
        ]
    }
    assert error["default"] < 1e-6 and error["float32"] > 1e-5


def test_one_row_per_class_and_an_absent_class():
    features = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    head = RidgeHead().fit(features, torch.eye(5, dtype=torch.float64)[:4], 1e-3)
    assert torch.equal(head(features).argmax(-1), torch.arange(4))
    assert (head.weight[4] == 0).all() and head.bias[4] == 0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shapes, st.integers(0, 10**6), st.sampled_from([1e-4, 0.1, 10.0]), st.booleans())
def test_leave_one_out_is_exact(shape, seed, l2, fit_intercept):
    features, targets, weight = problem(seed, *shape)
    weight[1] = 0
    solver = RidgeHead(fit_intercept=fit_intercept)
    if (weight > 0).sum() < 2:
        return
    logits = solver.leave_one_out(features, targets, l2, weight)
    scale = reference(features, targets, l2, weight, fit_intercept)[2]
    for i in range(len(features)):
        kept = torch.arange(len(features)) != i
        coef, intercept, _ = reference(features[kept], targets[kept], l2, weight[kept], fit_intercept, scale)
        torch.testing.assert_close(logits[i], features[i] @ coef.T + intercept, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("n, d", [(6, 9), (9, 4)])
def test_leave_one_out_gradients(n, d):
    features, targets, weight = problem(3, n, d, 2)
    inputs = [t.requires_grad_() for t in (features, targets, weight)]
    assert torch.autograd.gradcheck(lambda x, y, w: RidgeHead().leave_one_out(x, y, 0.3, w), inputs)


def test_leave_one_out_of_many_weights_and_of_a_lonely_row():
    features, targets, _ = problem(3, 6, 9, 2)
    weight = torch.ones(2, 6, dtype=torch.float64)
    weight[0, 1:] = 0
    logits = RidgeHead().leave_one_out(features, targets, 0.3, weight)
    assert (logits[0, 0] == 0).all()
    torch.testing.assert_close(logits[1], RidgeHead().leave_one_out(features, targets, 0.3))


def test_compiled_without_a_graph_break():
    features, targets, _ = problem(0, 8, 12, 3, dtype=torch.float32, weighted=False)
    weight = torch.ones(2, 8)
    weight[0, :3] = 0

    def loss(features):
        return RidgeHead().fit(features, targets, 0.5, weight)(features).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (loss, compiled):
        x = features.clone().requires_grad_()
        function(x).backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_transforms_of_torch_func():
    features, targets, weight = problem(0, 6, 9, 2)
    stacked = torch.stack([features, features.flip(0)])
    solver = RidgeHead(check_finite=False)

    def loss(features):
        return solver.fit(features, targets, 0.3, weight)(features).square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss))(stacked)
    torch.testing.assert_close(mapped, torch.stack([torch.func.grad(loss)(x) for x in stacked]))
