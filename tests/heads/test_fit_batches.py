import threading

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from merlin_hf.heads import get_head, whole_set
from merlin_hf.heads.statistics import L2_GRID, fold_of_rows


SOLVERS = ("ridge", "centroid", "logistic")


def rows(n=60, d=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64) + 2 * torch.eye(classes, d)[labels] + 1
    weight = torch.rand(n, generator=generator, dtype=torch.float64)
    weight[::7] = 0
    return features, torch.eye(classes, dtype=torch.float64)[labels], weight


def in_batches(tensors, size):
    return list(zip(*(t.split(size) for t in tensors), strict=True))


def on_ranks(solver, shards, l2):
    """`fit_batches` on as many threads as there are shards, with a barrier for the sum over ranks."""
    size = len(shards)
    barrier, slots, heads, errors = threading.Barrier(size, timeout=30), [None] * size, [None] * size, [None] * size

    def work(rank):
        def reduce(tensor):
            slots[rank] = tensor.clone()
            barrier.wait()
            total = sum(slots)
            barrier.wait()
            return total

        try:
            heads[rank] = solver.fit_batches(shards[rank], l2, reduce=reduce)
        except ValueError as error:
            errors[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return heads, errors


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_equals_fit(name, fit_intercept, size):
    data = rows()
    solver = get_head(name, fit_intercept=fit_intercept)
    head, expected = solver.fit_batches(in_batches(data, size), 0.4), solver.fit(*data[:2], 0.4, data[2])
    assert head.weight.dtype == torch.float64 and not head.weight.requires_grad
    torch.testing.assert_close(head.weight, expected.weight, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(head.bias, expected.bias, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("l2", [0.4, "auto"])
def test_ranks_agree_even_without_rows(name, l2):
    data = rows()
    solver = get_head(name)
    shards = [in_batches([t[:20] for t in data], 6), [], in_batches([t[20:] for t in data], 40)]
    heads, errors = on_ranks(solver, shards, l2)
    assert errors == [None] * 3
    for head in heads[1:]:
        assert torch.equal(head.weight, heads[0].weight) and torch.equal(head.bias, heads[0].bias)
    if l2 != "auto":
        alone = solver.fit_batches([data], l2)
        torch.testing.assert_close(heads[0].weight, alone.weight, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_rows_of_weight_zero_and_float32(name):
    features, targets, weight = rows()
    poisoned = features.float()
    poisoned[weight == 0] = float("nan")
    head = get_head(name).fit_batches([(poisoned, targets.float(), weight.float())], 0.4)
    assert head.weight.dtype == torch.float32
    expected = get_head(name).fit_batches([(features, targets, weight)], 0.4)
    torch.testing.assert_close(head.weight, expected.weight.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_bad_batches_are_named_on_every_rank(name):
    data = rows()
    solver = get_head(name)
    with pytest.raises(ValueError, match="no row whose sample_weight is positive"):
        solver.fit_batches([], 1.0)
    with pytest.raises(ValueError, match="no row whose sample_weight is positive"):
        solver.fit_batches([(*data[:2], torch.zeros(60))], 1.0)
    with pytest.raises(ValueError, match="l2='best' must be a number or \"auto\""):
        solver.fit_batches([data], "best")
    broken = (data[0] * float("nan"), *data[1:])
    _, errors = on_ranks(solver, [[data], [broken], []], 1.0)
    assert all("features in batches hold NaN" in str(error) for error in errors)
    narrow = (data[0][:, :4], *data[1:])
    _, errors = on_ranks(solver, [[data], [narrow], []], 1.0)
    assert all("different widths on different ranks" in str(error) for error in errors)


def test_folds_do_not_depend_on_batches_and_are_even():
    whole = fold_of_rows(0, 1000, 5)
    assert torch.equal(whole, torch.cat([fold_of_rows(start, 100, 5) for start in range(0, 1000, 100)]))
    assert whole.bincount().min() > 180


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_automatic_l2_of_ridge_is_the_cross_validated_one(fit_intercept):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 30, generator=generator, dtype=torch.float64) + 1
    targets = features[:, :2] + 3 * torch.randn(80, 2, generator=generator, dtype=torch.float64)
    solver = get_head("ridge", fit_intercept=fit_intercept)
    head = solver.fit_batches(in_batches((features, targets, torch.ones(80)), 9), "auto")
    fold = fold_of_rows(0, 80, 5)
    errors = []
    for l2 in L2_GRID:
        error = 0.0
        for f in range(5):
            fitted = solver.fit(features[fold != f], targets[fold != f], l2)(features[fold == f])
            error += float((targets[fold == f] - fitted).square().sum())
        errors.append(error)
    best = L2_GRID[errors.index(min(errors))]
    assert L2_GRID[0] < best < L2_GRID[-1]
    assert float(head.info["l2"]) == best
    torch.testing.assert_close(head.weight, solver.fit(features, targets, best).weight)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-8), (torch.float32, 1e-6)])
def test_logistic_of_many_rows(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10_000) % 3
    features = torch.randn(10_000, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    features = (features + 0.5 * torch.eye(3, 4)[labels] + 3).to(dtype)
    data = features, torch.eye(3, dtype=dtype)[labels], torch.ones(10_000)
    head = get_head("logistic").fit_batches(in_batches(data, 999), 0.1)
    assert head.info["solver_unconverged"] == 0
    expected = get_head("logistic").fit(data[0].double(), data[1], 0.1)
    torch.testing.assert_close(head.weight.double(), expected.weight, atol=tolerance, rtol=tolerance)
    spread = (features.double() - features.double().mean(0)).square().sum(1).mean()
    model = LogisticRegression(C=float(1 / (0.1 * spread)), tol=1e-10, max_iter=10_000)
    model.fit(features.double().numpy(), labels.numpy())
    torch.testing.assert_close(head.weight.double(), torch.as_tensor(model.coef_), atol=1e-5, rtol=1e-4)


def test_automatic_l2_of_logistic_is_the_cross_validated_one():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    labels = (features[:, 0] + torch.randn(60, generator=generator) > 0).long()
    targets = torch.eye(2, dtype=torch.float64)[labels]
    solver = get_head("logistic")
    head = solver.fit_batches(in_batches((features, targets, torch.ones(60)), 13), "auto")
    fold = fold_of_rows(0, 60, 5)
    scale = (features - features.mean(0)).square().sum(1).mean()
    errors = {}
    for l2 in whole_set.COARSE_GRID:
        errors[l2] = 0.0
        for f in range(5):
            train = fold != f
            # The penalty is that of all rows.
            part = (features[train] - features[train].mean(0)).square().sum(1).mean()
            fitted = solver.fit(features[train], targets[train], float(l2 * scale / part))(features[~train])
            errors[l2] -= float(fitted.log_softmax(-1)[torch.arange(len(fitted)), labels[~train]].sum())
    best = min(errors, key=errors.get)
    assert whole_set.COARSE_GRID[0] < best < whole_set.COARSE_GRID[-1]
    assert float(head.info["l2"]) == best
    torch.testing.assert_close(head.weight, solver.fit(features, targets, best).weight, atol=1e-6, rtol=1e-6)


def test_a_fit_that_runs_out_of_steps_says_so(monkeypatch):
    monkeypatch.setattr(whole_set, "MAX_STEPS", 2)
    head = get_head("logistic").fit_batches([rows()], 1e-3)
    assert head.info["solver_unconverged"] == 1 and head.info["solver_residual"] > 1e-6
