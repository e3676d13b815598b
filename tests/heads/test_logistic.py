import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from merlin_hf.heads import LogisticHead, logistic


PROBLEM_TYPES = LogisticHead.problem_types


@pytest.fixture(params=["exact", "cg"])
def method(request, monkeypatch):
    """Both ways to solve the Newton system."""
    monkeypatch.setitem(logistic.EXACT_MAX_ENTRIES, "cpu", 2**23 if request.param == "exact" else 0)
    return request.param


def problem(n, d, classes, seed=0, weighted=True):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64) + centres[labels] + 1
    weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    return features, labels, torch.eye(classes, dtype=torch.float64)[labels], weight if weighted else weight**0


def penalty(features, weight, l2, fit_intercept):
    share = weight / weight.sum()
    mean = share @ features if fit_intercept else 0.0
    return float(l2 * (share @ (features - mean).square().sum(1)))


def scikit_learn_logits(features, labels, weight, l2, fit_intercept):
    """Log-probabilities of scikit-learn's optimum."""
    two = 2 if len(labels.unique()) == 2 else 1
    model = LogisticRegression(
        C=two / penalty(features, weight, l2, fit_intercept), fit_intercept=fit_intercept, tol=1e-10, max_iter=50_000
    )
    model.fit(features.numpy(), labels.numpy(), sample_weight=weight.numpy())
    return torch.as_tensor(model.predict_log_proba(features.numpy()))


shapes = st.one_of(
    st.tuples(st.integers(6, 24), st.integers(1, 24), st.sampled_from([2, 3, 5])),
    st.just((12, 12, 3)),
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shapes, st.integers(0, 10**6), st.sampled_from([1e-2, 0.3, 10.0]), st.booleans(), st.booleans())
def test_multinomial_equals_scikit_learn(shape, seed, l2, fit_intercept, exact):
    features, labels, targets, weight = problem(*shape, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(logistic.EXACT_MAX_ENTRIES, "cpu", 2**23 if exact else 0)
        head = LogisticHead(fit_intercept=fit_intercept).fit(features, targets, l2, weight)
    assert head.info["solver_unconverged"] == 0
    expected = scikit_learn_logits(features, labels, weight, l2, fit_intercept)
    torch.testing.assert_close(head(features).log_softmax(-1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_one_vs_rest_equals_scikit_learn(method, fit_intercept):
    features, _, _, weight = problem(30, 7, 3)
    generator = torch.Generator().manual_seed(1)
    targets = (features[:, :3] + torch.randn(30, 3, generator=generator) > 1).double()
    solver = LogisticHead(problem_type="multi_label_classification", fit_intercept=fit_intercept)
    head = solver.fit(features, targets, 0.1, weight)
    for c in range(3):
        model = LogisticRegression(
            C=1 / penalty(features, weight, 0.1, fit_intercept),
            fit_intercept=fit_intercept,
            tol=1e-10,
            max_iter=10_000,
        ).fit(features.numpy(), targets[:, c].numpy(), sample_weight=weight.numpy())
        expected = torch.as_tensor(model.decision_function(features.numpy()))
        torch.testing.assert_close(head(features)[:, c], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("n, d, fit_intercept", [(7, 9, True), (8, 8, False), (9, 4, True)])
def test_gradients(method, problem_type, n, d, fit_intercept):
    features, _, targets, weight = problem(n, d, 3)
    single = problem_type == "single_label_classification"
    fitted = LogisticHead(problem_type=problem_type, fit_intercept=fit_intercept, tolerance=1e-10)

    def fit(features, scores, weight):
        # Soft targets of the softmax sum to 1, so they are moved through their own scores.
        encoded = scores.softmax(-1) if single else scores.sigmoid()
        head = fitted.fit(features, encoded, 0.3, weight)
        return head.weight, head.bias

    inputs = [features.requires_grad_(), targets.requires_grad_(), weight.requires_grad_()]
    assert torch.autograd.gradcheck(fit, inputs, fast_mode=method == "cg")


@pytest.mark.parametrize("n, d", [(7, 9), (9, 4)])
def test_gradients_with_shared_features(method, n, d):
    features, _, targets, _ = problem(n, d, 3)
    weight = torch.ones(2, n, dtype=torch.float64)
    weight[0, 1] = weight[1, 5] = 0

    def fit(features):
        return LogisticHead(tolerance=1e-10).fit(features, targets, 0.3, weight)(features)

    assert torch.autograd.gradcheck(fit, features.requires_grad_())


def test_gradient_agrees_with_a_converged_unrolled_solve():
    """Differentiating through 3000 steps of gradient descent gives what the implicit function theorem gives."""
    features, _, targets, _ = problem(8, 3, 3)
    grads = []
    for unrolled in (False, True):
        x = features.clone().requires_grad_()
        if unrolled:
            scale = (x - x.mean(0)).square().sum(1).mean()
            w, b = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            for _ in range(3000):
                missing = targets - (x @ w.T + b).softmax(-1)
                w, b = w + 0.02 * (missing.T @ x - 0.5 * scale * w), b + 0.02 * missing.sum(0)
        else:
            head = LogisticHead().fit(x, targets, 0.5)
            w, b = head.weight, head.bias
        grads.append(torch.autograd.grad((features @ w.T + b).log_softmax(-1)[:, 0].sum(), x)[0])
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("l2", [1e-6, 1e-3])
def test_separable_classes_are_survived(problem_type, l2):
    features, labels, targets, _ = problem(24, 40, 3)
    features.requires_grad_()
    head = LogisticHead(problem_type=problem_type).fit(features, targets, l2)
    assert head.info["solver_unconverged"] == 0
    assert torch.equal(head(features).argmax(-1), labels)
    head(features).square().sum().backward()
    assert features.grad.isfinite().all()


def test_saturated_gradient_is_accurate(monkeypatch):
    """Where 1 - p is tiny the exact method subtracts nearly equal numbers; conjugate gradients do not."""
    features, _, targets, _ = problem(12, 20, 3)
    jacobians = []
    for entries in (2**23, 0):
        monkeypatch.setitem(logistic.EXACT_MAX_ENTRIES, "cpu", entries)
        solver = LogisticHead(max_cg=1000, tolerance=1e-11)
        jacobians.append(
            torch.autograd.functional.jacobian(lambda x, solver=solver: solver.fit(x, targets, 1e-5).weight, features)
        )
    torch.testing.assert_close(*jacobians, atol=1e-6, rtol=1e-4)


def test_an_absent_class_has_the_bias_of_half_a_row(method):
    features, _, targets, _ = problem(12, 5, 3)
    wider = torch.cat([targets, torch.zeros(12, 1, dtype=torch.float64)], 1)
    narrow, head = LogisticHead().fit(features, targets, 0.3), LogisticHead().fit(features, wider, 0.3)
    torch.testing.assert_close(head.weight[:3], narrow.weight)
    torch.testing.assert_close(head.bias[:3], narrow.bias)
    assert (head.weight[3] == 0).all()
    torch.testing.assert_close(head.bias[3], torch.tensor(0.5 / 4, dtype=torch.float64).log())


def test_labels_with_one_answer_only(method):
    features, _, targets, _ = problem(12, 5, 3)
    features.requires_grad_()
    targets = torch.cat([targets, torch.zeros(12, 1).double(), torch.ones(12, 1).double()], 1)
    head = LogisticHead(problem_type="multi_label_classification").fit(features, targets, 0.3)
    assert (head.weight[3:] == 0).all()
    torch.testing.assert_close(head.bias[3:], torch.tensor([0.5 / 12.5, 12.5 / 0.5], dtype=torch.float64).log())
    assert head.info["solver_unconverged"] == 0
    head(features).sum().backward()
    assert features.grad.isfinite().all()


def test_one_row_per_class_of_many(monkeypatch):
    features, labels, targets, _ = problem(200, 64, 200, weighted=False)
    head = LogisticHead().fit(features, targets, 0.1)
    assert head.info["solver_unconverged"] == 0
    assert torch.equal(head(features).argmax(-1), labels)
    monkeypatch.setitem(logistic.EXACT_MAX_ENTRIES, "cpu", 2**23)
    torch.testing.assert_close(
        LogisticHead().fit(features, targets, 0.1)(features), head(features), atol=1e-6, rtol=1e-6
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(shapes, st.integers(0, 10**6), st.sampled_from(PROBLEM_TYPES))
def test_duplicated_rows_and_constant_features(shape, seed, problem_type):
    features, _, targets, _ = problem(*shape, seed=seed, weighted=False)
    features = torch.cat([features, torch.full((len(features), 1), 5.0, dtype=torch.float64)], 1)
    solver = LogisticHead(problem_type=problem_type)
    twice = solver.fit(torch.cat([features, features[:2]]), torch.cat([targets, targets[:2]]), 0.1)
    weight = torch.ones(len(features), dtype=torch.float64)
    weight[:2] = 2
    weighted = solver.fit(features, targets, 0.1, weight)
    torch.testing.assert_close(twice(features), weighted(features), atol=1e-6, rtol=1e-6)
    assert weighted.weight[:, -1].abs().max() < 1e-12


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_a_solve_that_did_not_converge_says_so(method, problem_type):
    features, _, targets, _ = problem(30, 20, 3)
    weight = torch.ones(2, 30)
    early = LogisticHead(problem_type=problem_type, max_iter=1).fit(features, targets, 1e-3, weight)
    assert early.info["solver_unconverged"] == 2 and early.info["solver_residual"] > 1e-3
    full = LogisticHead(problem_type=problem_type).fit(features, targets, 1e-3, weight)
    assert full.info["solver_unconverged"] == 0 and full.info["solver_residual"] <= 1e-8


def test_without_reading_the_device_the_answer_is_the_same(method):
    features, _, targets, _ = problem(30, 20, 3)
    heads = [LogisticHead(early_stop=early).fit(features, targets, 0.1) for early in (True, False)]
    torch.testing.assert_close(heads[0].weight, heads[1].weight, atol=1e-8, rtol=1e-8)


def test_float32_solve(method):
    features, _, targets, _ = problem(30, 60, 3)
    head = LogisticHead(dtype=torch.float32).fit(features.float(), targets.float(), 0.3)
    assert head.info["solver_unconverged"] == 0
    torch.testing.assert_close(
        head.weight.double(), LogisticHead().fit(features, targets, 0.3).weight, atol=1e-4, rtol=1e-3
    )


def test_called_inside_a_compiled_function():
    features, _, targets, _ = problem(8, 12, 3)

    def loss(features):
        return LogisticHead().fit(2 * features, targets, 0.3)(features).square().sum()

    grads = []
    for function in (loss, torch.compile(loss, backend="aot_eager")):
        x = features.clone().requires_grad_()
        function(x).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="max_iter=0"):
        LogisticHead(max_iter=0)
    with pytest.raises(ValueError, match="tolerance=-1"):
        LogisticHead(tolerance=-1)
    with pytest.raises(ValueError, match="'regression' is not supported by LogisticHead"):
        LogisticHead(problem_type="regression")
