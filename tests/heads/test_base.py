import pytest
import torch

from merlin_hf.heads import HEADS, HeadSolver, LinearHead, available_heads, get_head, register_head


SOLVERS = ("ridge", "centroid", "logistic")


def batch(n=12, d=5, classes=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=dtype)
    labels = torch.arange(n) % classes
    return features, torch.nn.functional.one_hot(labels, classes).to(dtype)


def test_linear_head_broadcasts_over_leading_dimensions():
    head = LinearHead(torch.randn(4, 3, 5), torch.randn(4, 3))
    features = torch.randn(7, 5)
    logits = head(features)
    assert logits.shape == (4, 7, 3)
    torch.testing.assert_close(logits[2], features @ head.weight[2].T + head.bias[2])


def test_linear_head_ignores_autocast():
    head = LinearHead(torch.randn(3, 5), torch.randn(3))
    features = torch.randn(7, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(features))


def test_unknown_head_names_the_nearest():
    with pytest.raises(ValueError, match=r"head='rigde' is not known; available: .*ridge.*Did you mean 'ridge'"):
        get_head("rigde")


def test_register_head_refuses_other_classes_and_taken_names():
    with pytest.raises(TypeError, match="subclasses of HeadSolver"):
        register_head("function")(lambda features: features)
    with pytest.raises(ValueError, match="already belongs to RidgeHead"):

        @register_head("ridge")
        class Other(HeadSolver):
            pass

    assert get_head("ridge").__class__.__name__ == "RidgeHead"


def test_a_registered_head_is_found():
    @register_head("test-mean")
    class MeanHead(HeadSolver):
        def _fit(self, features, targets, l2, sample_weight):
            return LinearHead(features.new_zeros(targets.shape[-1], features.shape[-1]), targets.mean(-2))

        def fit_batches(self, batches, l2, reduce=None):
            raise NotImplementedError

    try:
        assert "test-mean" in available_heads()
        features, targets = batch()
        assert torch.equal(get_head("test-mean").fit(features, targets, 1.0).bias, targets.mean(0))
    finally:
        del HEADS["test-mean"]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y, w: (x.long(), y, 1.0, w), "features must be floating point"),
        (lambda x, y, w: (x[0], y, 1.0, w), "features must have shape"),
        (lambda x, y, w: (x, y[:-1], 1.0, w), "targets must have shape"),
        (lambda x, y, w: (x, y, 1.0, w[:-1]), "sample_weight must have shape"),
        (lambda x, y, w: (x.expand(2, -1, -1), y.expand(3, -1, -1), 1.0, w), "must broadcast"),
        (lambda x, y, w: (x, y, -1.0, w), "l2=-1.0 must be a finite number greater than 0"),
        (lambda x, y, w: (x, y, float("nan"), w), "l2=nan must be"),
        (lambda x, y, w: (x, y, torch.ones(()), w), "l2 must be a float"),
        (lambda x, y, w: (x, y, "auto", w), "l2 must be a float"),
        (lambda x, y, w: (x * float("nan"), y, 1.0, w), "features holds 60 values that are NaN"),
        (lambda x, y, w: (x, y / 0, 1.0, w), "targets holds"),
        (lambda x, y, w: (x, y, 1.0, -w), "sample_weight must not be negative"),
    ],
)
def test_bad_input_is_named(name, change, message):
    features, targets = batch()
    with pytest.raises(ValueError, match=message):
        get_head(name).fit(*change(features, targets, torch.ones(12)))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="problem_type='regression' is not supported by CentroidHead"):
        get_head("centroid", problem_type="regression")
    with pytest.raises(ValueError, match="dtype=torch.bfloat16"):
        get_head("ridge", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", SOLVERS)
def test_check_finite_can_be_switched_off(name):
    features, targets = batch()
    features[3, 1] = float("nan")
    head = get_head(name, check_finite=False).fit(features, targets, 1.0)
    assert head.weight.isnan().any()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("d", [5, 30])
@pytest.mark.parametrize("poison", [1e30, float("nan"), float("inf")])
def test_a_row_of_weight_zero_has_no_influence(name, fit_intercept, d, poison):
    features, targets = batch(d=d)
    weight = torch.ones(12)
    weight[[2, 7]] = 0
    solver = get_head(name, fit_intercept=fit_intercept)
    poisoned = features.clone()
    poisoned[[2, 7]] = poison
    poisoned.requires_grad_()
    head, expected = solver.fit(poisoned, targets, 0.5, weight), solver.fit(features, targets, 0.5, weight)
    assert torch.equal(head.weight, expected.weight) and torch.equal(head.bias, expected.bias)
    (head.weight.square().sum() + head.bias.square().sum()).backward()
    assert (poisoned.grad[[2, 7]] == 0).all()
    assert poisoned.grad.isfinite().all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("d", [5, 30])
def test_weights_in_a_batch_are_as_rows_left_out(name, d):
    features, targets = batch(d=d, dtype=torch.float64)
    weight = (torch.rand(4, 12, generator=torch.Generator().manual_seed(1)) < 0.7).double()
    solver = get_head(name)
    heads = solver.fit(features, targets, 0.3, weight)
    assert heads.weight.shape == (4, 3, d) and heads.bias.shape == (4, 3)
    for i in range(4):
        kept = weight[i] > 0
        alone = solver.fit(features[kept], targets[kept], 0.3)
        torch.testing.assert_close(heads.weight[i], alone.weight, atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(heads.bias[i], alone.bias, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("d", [5, 30])
def test_leading_dimensions_of_features(name, d):
    features, targets = batch(d=d, dtype=torch.float64)
    stacked = torch.stack([features, 2 * features.flip(0) + 1])
    solver = get_head(name)
    heads = solver.fit(stacked, targets, 0.3, torch.ones(2, 12))
    for i in range(2):
        alone = solver.fit(stacked[i], targets, 0.3)
        torch.testing.assert_close(heads.weight[i], alone.weight, atol=1e-8, rtol=1e-7)
        torch.testing.assert_close(heads.bias[i], alone.bias, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("d", [5, 30])
def test_scaling_the_features_does_not_change_the_logits(name, fit_intercept, scale, d):
    features, targets = batch(d=d)
    solver = get_head(name, fit_intercept=fit_intercept)
    expected = solver.fit(features, targets, 0.5)(features)
    logits = solver.fit(features * scale, targets, 0.5)(features * scale)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("fit_intercept, value", [(True, 0.0), (True, 3.7), (True, 1e6), (False, 0.0)])
@pytest.mark.parametrize("d", [5, 30])
def test_constant_features_give_the_mean_and_finite_gradients(name, fit_intercept, d, value):
    _, targets = batch()
    features = torch.full((12, d), value, requires_grad=True)
    head = get_head(name, fit_intercept=fit_intercept).fit(features, targets, 0.5)
    assert (head.weight == 0).all()
    assert head.bias.isfinite().all()
    head(features).square().sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("d", [5, 30])
def test_a_large_common_offset_is_harmless(name, d):
    features, targets = batch(d=d)
    solver = get_head(name)
    expected = solver.fit(features, targets, 0.5).weight
    weight = solver.fit(features + 1000.0, targets, 0.5).weight
    torch.testing.assert_close(weight, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_under_autocast(name, dtype):
    features, targets = batch(n=24, d=40)
    low = features.to(dtype).requires_grad_()
    high = low.detach().float().requires_grad_()
    solver = get_head(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head = solver.fit(low, targets.to(dtype), 0.5)
        head(low).square().sum().backward()
    expected = solver.fit(high, targets, 0.5)
    expected(high).square().sum().backward()
    assert head.weight.dtype == torch.float32
    torch.testing.assert_close(head.weight, expected.weight)
    assert low.grad.dtype == dtype
    torch.testing.assert_close(low.grad.float(), high.grad, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", SOLVERS)
def test_double_in_double_out(name):
    features, targets = batch(dtype=torch.float64)
    assert get_head(name).fit(features, targets, 1.0).weight.dtype == torch.float64
    assert get_head(name).fit(features.float(), targets, 1.0).weight.dtype == torch.float32


@pytest.mark.parametrize("name", SOLVERS)
def test_no_rows_that_count(name):
    features, targets = batch()
    features.requires_grad_()
    head = get_head(name).fit(features, targets, 1.0, torch.zeros(12))
    assert (head.weight == 0).all() and head.bias.isfinite().all()
    head(features).sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("d", [5, 30])
def test_no_host_synchronisation(name, d):
    features, targets = (t.cuda() for t in batch(d=d))
    weight = torch.ones(2, 12, device="cuda")
    features.requires_grad_()
    solver = get_head(name)
    solver.fit(features, targets, 1.0, weight)(features).square().sum().backward()  # creates handles and workspaces
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        solver.fit(features, targets, 1.0, weight)(features).square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", SOLVERS)
def test_decision_threshold_separates_the_labels(name):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 4, generator=generator)
    targets = (features[:, :2] > 0.5).float()
    solver = get_head(name, problem_type="multi_label_classification")
    on = solver.fit(features, targets, 0.1)(features) > solver.decision_threshold
    assert (on == targets.bool()).float().mean() > 0.85


@pytest.mark.parametrize("name", SOLVERS)
def test_every_way_to_broadcast(name):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    targets = torch.eye(3, dtype=torch.float64)[torch.arange(6) % 3]
    weight = torch.rand(4, 2, 6, generator=generator, dtype=torch.float64)
    weight[1, 0, 2] = 0
    solver = get_head(name)

    def check(head, index, *inputs):
        alone = solver.fit(inputs[0], inputs[1], 0.3, *inputs[2:])
        torch.testing.assert_close(head.weight[index], alone.weight, atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(head.bias[index], alone.bias, atol=1e-7, rtol=1e-7)

    for i, j in [(0, 0), (1, 0), (3, 1)]:
        check(solver.fit(features, targets, 0.3, weight), (i, j), features[j], targets, weight[i, j])
    check(solver.fit(features, targets, 0.3, weight[0, 0]), 1, features[1], targets, weight[0, 0])
    both = torch.stack([targets, targets.flip(0)])
    check(solver.fit(features[0], both, 0.3), 1, features[0], both[1])
