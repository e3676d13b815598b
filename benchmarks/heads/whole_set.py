"""The whole-set fit beside scikit-learn: 100,000 rows of 768 features."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeClassifierCV

from merlin_hf.heads import get_head
from merlin_hf.heads.statistics import L2_GRID


RESULTS = Path(__file__).resolve().parent / "results"
ROWS, FEATURES, CLASSES, BATCH = 100_000, 768, 3, 1000
TURNS = 2


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features with a decaying spectrum and overlapping classes, in float32."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1.5, FEATURES)
    mixing = torch.randn(FEATURES, FEATURES, generator=generator) * scales / FEATURES**0.5
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    means = torch.randn(CLASSES, FEATURES, generator=generator) * scales
    features = torch.randn(ROWS, FEATURES, generator=generator) @ mixing + 0.1 * means[labels]
    return features, labels


def methods(features, labels, l2: float, device: str) -> dict:
    """Each returns weights `(C, d)` as a NumPy array."""
    targets = torch.eye(CLASSES)[labels]
    batches = [
        tuple(t[i : i + BATCH].to(device) for t in (features, targets)) + (None,) for i in range(0, ROWS, BATCH)
    ]
    spread = float((features.double() - features.double().mean(0)).square().sum(1).mean())
    arrays = {"float32": features.numpy(), "float64": features.double().numpy()}
    answers = labels.numpy()

    def heads(name, l2):
        return lambda: get_head(name).fit_batches(batches, l2).weight.cpu().double().numpy()

    def ridge(dtype):
        # RidgeClassifier codes its targets -1 and 1, we 0 and 1.
        return lambda: RidgeClassifier(alpha=l2 * spread).fit(arrays[dtype], answers).coef_ / 2

    def logistic(dtype, tolerance):
        model = LogisticRegression(C=1 / (l2 * spread), tol=tolerance, max_iter=2000)
        return lambda: model.fit(arrays[dtype], answers).coef_

    def ridge_cv():
        alphas = [value * spread for value in L2_GRID]
        return RidgeClassifierCV(alphas=alphas).fit(arrays["float32"], answers).coef_ / 2

    return {
        "ridge": {
            "ours": heads("ridge", l2),
            "RidgeClassifier, float32": ridge("float32"),
            "RidgeClassifier, float64": ridge("float64"),
        },
        "ridge, l2 chosen": {"ours": heads("ridge", "auto"), "RidgeClassifierCV, float32": ridge_cv},
        "logistic": {
            "ours": heads("logistic", l2),
            "LogisticRegression, float32, tol 1e-4": logistic("float32", 1e-4),
            "LogisticRegression, float64, tol 1e-6": logistic("float64", 1e-6),
            "LogisticRegression, float64, tol 1e-8": logistic("float64", 1e-8),
        },
        "logistic, l2 chosen": {"ours": heads("logistic", "auto")},
    }


def reference(features, labels, l2: float) -> dict:
    """Weights to 1e-9 from float64 features."""
    batch = [(features.double(), torch.eye(CLASSES, dtype=torch.float64)[labels], None)]
    return {name: get_head(name).fit_batches(batch, l2).weight.numpy() for name in ("ridge", "logistic")}


def run_whole_set(device: str, environment: dict, l2: float = 1.0) -> None:
    """Write results/whole-set-<device>.json."""
    torch.set_default_device("cpu")
    features, labels = data()
    exact = reference(features, labels, l2)
    families = methods(features, labels, l2, device)
    results = {family: {name: {"seconds": []} for name in group} for family, group in families.items()}
    for turn in range(TURNS):
        for family, group in families.items():
            for name, fit in group.items():
                if turn > 0 and results[family][name]["seconds"][0] > 60:
                    continue
                start = time.perf_counter()
                weight = fit()
                results[family][name]["seconds"].append(round(time.perf_counter() - start, 2))
                if family in exact:
                    error = np.linalg.norm(weight - exact[family]) / np.linalg.norm(exact[family])
                    results[family][name]["weight_error"] = float(error)
                print(family, name, results[family][name], flush=True)
    text = {
        "rows": ROWS, "features": FEATURES, "classes": CLASSES, "l2": l2, **environment,
        "load_average": os.getloadavg()[0], "results": results,
    }  # fmt: skip
    (RESULTS / f"whole-set-{device}.json").write_text(json.dumps(text, indent=1) + "\n")
