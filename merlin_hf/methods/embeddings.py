"""Logistic regression on the embeddings of a frozen encoder."""

import warnings
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from ..heads import HeadSolver, LinearHead
from ..heads.base import Batch, Reduce
from ..transfer.labels import REGRESSION, SINGLE_LABEL
from ..transfer.trainer import TransferTrainer
from .linear_probe import NoStepsTrainer, default_probe_head


L2 = tuple(10.0**power for power in range(4, -4, -1))  # tried, the strongest first
FOLDS = 5
ABSENT = 10.0  # how far the logit of a class without rows is below all others


class ScikitLearnHead(HeadSolver):
    """
    scikit-learn's logistic regression, for real labels ridge regression, in the terms of this package.

        sum over rows of the loss + l2 * spread / 2 * |W|^2,  spread = mean |x - mean(x)|^2

    In scikit-learn's terms `C = 1 / (l2 * spread)`. It is not part of the graph: no gradient flows through it.
    """

    single_pass: ClassVar[bool] = False

    def _fit(self, features, targets, l2, sample_weight):
        raise NotImplementedError("scikit-learn fits no head that can be differentiated through.")

    def fit_batches(
        self, batches: Iterable[Batch], l2: float | Tensor | str = "auto", reduce: Reduce | None = None
    ) -> LinearHead:
        """
        Fit the head on a whole data set, without gradient; see [`~merlin_hf.heads.HeadSolver`].

        `l2="auto"` takes the one of 8 values from 1e-3 to 1e4 with the least log loss on rows that were left out, in
        5 stratified folds. A class with one row is in every training part, and one with fewer rows than folds in as
        many folds as it has rows. Ridge regression leaves one row out at a time.
        """
        given = [(x, y, torch.ones(len(x)) if w is None else w) for x, y, w in batches]
        like = given[0][0].to(torch.promote_types(given[0][0].dtype, torch.float32))
        own = [torch.cat([t.detach().cpu().double() for t in part]).numpy() for part in zip(*given, strict=True)]
        ranks = [own] if reduce is None else gather_object([own])
        # Ranks take rows in turn: in the order of the data set the folds are those of one process.
        order = np.argsort(np.concatenate([np.arange(len(part[0])) for part in ranks]), kind="stable")
        features, targets, counted = (np.concatenate(part)[order] for part in zip(*ranks, strict=True))
        features, targets = features[counted > 0], targets[counted > 0]
        mean = features.mean(0) if self.fit_intercept else np.zeros(features.shape[1])
        # One number for all features, so that the solver meets numbers of about 1 and the penalty stays what it is.
        scale = np.sqrt(np.square(features - mean).mean()) or 1.0
        rows, choices = (features - mean) / scale, L2 if isinstance(l2, str) else (float(l2),)
        if self.problem_type == REGRESSION:
            weight, bias, chosen = self._ridge(rows, targets, choices)
        elif self.problem_type == SINGLE_LABEL:
            weight, bias, chosen = self._classes(rows, targets.argmax(-1), targets.shape[1], choices)
        else:  # a label that is on is a class of its own
            labels = [self._classes(rows, column > 0, 2, choices) for column in targets.T]
            weight = np.stack([weights[1] - weights[0] for weights, _, _ in labels])
            bias = np.stack([biases[1] - biases[0] for _, biases, _ in labels])
            chosen = float(np.exp(np.mean([np.log(one) for _, _, one in labels])))
        weight = weight / scale
        bias = bias - weight @ mean
        info = {"l2": torch.tensor(chosen)}
        return LinearHead(torch.from_numpy(weight).to(like), torch.from_numpy(bias).to(like), info)

    def _ridge(self, rows: np.ndarray, targets: np.ndarray, choices: tuple) -> tuple[np.ndarray, np.ndarray, float]:
        alphas = rows.shape[1] * np.asarray(choices)
        model = RidgeCV(alphas, fit_intercept=self.fit_intercept).fit(rows, targets)
        weight, bias = np.atleast_2d(model.coef_), np.broadcast_to(model.intercept_, targets.shape[1])
        return weight, bias, float(model.alpha_ / rows.shape[1])

    def _classes(
        self, rows: np.ndarray, labels: np.ndarray, num_labels: int, choices: tuple
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return weights `(num_labels, d)`, biases `(num_labels,)` and the chosen regulariser."""
        labels = labels.astype(int)
        classes, counts = np.unique(labels, return_counts=True)
        chosen = choices[0] if len(choices) == 1 else self.choose(rows, labels, choices)
        weight, bias = np.zeros((num_labels, rows.shape[1])), np.zeros(num_labels)
        if len(classes) > 1:
            model = self.regression(chosen, rows.shape[1], tol=1e-8).fit(rows, labels)
            if len(classes) == 2:  # one logit, of the second class against the first
                weight[classes] = np.concatenate([-model.coef_, model.coef_]) / 2
                bias[classes] = np.concatenate([-model.intercept_, model.intercept_]) / 2
            else:
                weight[classes], bias[classes] = model.coef_, model.intercept_
        absent = np.setdiff1d(np.arange(num_labels), classes)
        bias[absent] = -np.abs(rows @ weight.T + bias).max() - ABSENT
        return weight, bias, chosen

    def choose(self, rows: np.ndarray, labels: np.ndarray, choices: tuple) -> float:
        """Return the regulariser with the least log loss on rows that were left out; 1 where no class has two rows."""
        classes, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        several = np.flatnonzero(counts[places] > 1)  # rows of the other classes are always trained on
        if len(classes) < 2 or not len(several):
            return 1.0
        folds = StratifiedKFold(min(FOLDS, counts.max()), shuffle=True, random_state=0)
        losses = np.zeros(len(choices))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer rows than folds
            divided = list(folds.split(several, labels[several]))
        for _, judged in divided:
            judged_by = several[judged]
            trained_on = np.setdiff1d(np.arange(len(rows)), judged_by)
            model = self.regression(1.0, rows.shape[1], warm_start=True)
            for place, l2 in enumerate(choices):
                model.set_params(C=1 / (l2 * rows.shape[1]))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model.fit(rows[trained_on], labels[trained_on])
                log_probabilities = model.predict_log_proba(rows[judged_by])
                found = log_probabilities[np.arange(len(judged_by)), places[judged_by]]
                losses[place] -= found.clip(min=-50).sum()
        return choices[int(losses.argmin())]

    def regression(self, l2: float, features: int, **options) -> LogisticRegression:
        """Return scikit-learn's regression for scaled rows with so many features."""
        return LogisticRegression(C=1 / (l2 * features), fit_intercept=self.fit_intercept, max_iter=10_000, **options)


class EmbeddingsHeadTrainer(TransferTrainer):
    """A trainer whose last layer is scikit-learn's logistic regression on the features that enter it."""

    trains_target_head: ClassVar[bool] = False

    def solver_name(self, problem_type):
        """Return the name of the nearest solver of this package."""
        return default_probe_head(problem_type)

    def head_solver(self, problem_type):
        """Return scikit-learn's regression, with an intercept where the model's last layer has a bias."""
        fit_intercept = self.build_transfer_model().head.bias is not None
        return ScikitLearnHead(problem_type=problem_type, fit_intercept=fit_intercept)


class EmbeddingsTrainer(NoStepsTrainer, EmbeddingsHeadTrainer):
    """
    Logistic regression on the features of the pretrained backbone, a baseline that takes seconds.

        min over theta_t = (W, b):  sum over rows of the loss + |W|^2 / (2 C)

    Features are what enters the model's last layer, after the model's own pooling. The regression is scikit-learn's. C
    is chosen by the log loss in 5 stratified folds of the target's training rows. Real labels get ridge regression.
    The weights are written into the model's last layer, so the saved model is a plain one.

    The backbone is not trained: learning rates, `max_steps` and `num_train_epochs` have no effect. `train()` is one
    pass over the target's rows without gradient. [`~merlin_hf.methods.LinearProbeTrainer`] does the same for sharded
    models and for rows that do not fit into memory.
    """

    takes_source: ClassVar[bool] = False
    trains_without_source: ClassVar[bool] = True
