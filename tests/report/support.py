"""Result files as `merlin-hf compare` writes them, with scores that are given."""

import json
from pathlib import Path

import numpy as np

from merlin_hf.report.blocks import to_markdown, write_blocks
from merlin_hf.report.run import COMMENT, Answers, run_report


def write_results(
    folder: Path,
    source: str | None,
    target: dict,
    rows: int,
    scores: dict,
    seconds: float = 1.0,
    metrics: dict | None = None,
    **changes,
) -> Path:
    """
    Write `results.json`.

    Args:
        scores (`dict[str, list[float | None] | str]`): of each method by seed; a text is the reason why there are
            none.
        metrics (`dict[str, dict[str, float]]`, *optional*): more of each method, the same with all seeds.
        changes: other keys of the file.
    """
    methods = []
    for number, (label, values) in enumerate(scores.items()):
        if isinstance(values, str):
            methods.append({"label": label, "method": label, "status": "not applicable", "reason": values})
            continue
        runs = {str(seed): {"train_seconds": seconds * (number + 1)} for seed in range(len(values))}
        for run in runs.values() if metrics else ():
            run["metrics"] = metrics[label]
        by_seed = {str(seed): value for seed, value in enumerate(values)}
        methods.append({"label": label, "method": label, "status": "ok", "scores": by_seed, "runs": runs})
    summary = {
        "metric": "accuracy",
        "lower_is_better": False,
        "reference": "merlin",
        "data": {"target": {"path": target["path"], "train_rows": rows, "test_rows": 500}, "source": None},
        "methods": methods,
        "environment": {"merlin_hf": "0.1.0", "torch": "2.13.0", "device": "cpu"},
        "config": {"model": "/home/somebody/models/minilm", "target": target, "source": source and {"path": source}},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    path.write_text(json.dumps(summary))
    return path


def draw_scores(labels: list[str], seeds: int, seed: int, spread: float = 0.02) -> dict[str, list[float]]:
    """Scores whose means rise from label to label, with noise that differs between them."""
    draw = np.random.default_rng(seed)
    return {
        label: (0.6 + 0.02 * place + draw.normal(0, spread, seeds)).round(6).tolist()
        for place, label in enumerate(labels)
    }


def report_run(folder: Path, output_dir: Path | None = None, **known) -> str:
    """Return the report on a run, and write it with its figures if a folder is given."""
    blocks, _ = run_report(folder, Answers(**known) if known else None)
    if output_dir is not None:
        list(write_blocks(blocks, output_dir, COMMENT))
    return to_markdown(blocks, COMMENT, with_pictures=output_dir is not None)
