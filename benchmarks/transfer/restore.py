"""
Run files from the results that are committed: `python benchmarks/transfer/restore.py --pairs mnist-usps --rows 100`.

`run.py` then goes on from them, so that a method or an option is added without days of running what has not changed.
What was run with other options, on other rows or by another version has another key, and is left out. Defaults of the
package are in no key: where one has changed since, delete the runs of the methods that it is about.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from merlin_hf.comparison.config import CompareConfig, load_config
from merlin_hf.comparison.experiment import Experiment
from merlin_hf.comparison.progress import quiet
from merlin_hf.comparison.runner import MethodPlan, make_plans
from merlin_hf.comparison.store import Run, RunStore


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stored import files  # noqa: E402
from transfer.run import PAIRS, ROWS, load_pair, make_model  # noqa: E402


def restore(config: CompareConfig, results: dict[str, Any]) -> int:
    """
    Write the runs that `results`, the content of a `results.json`, tells of into the output folder of a comparison.

    Returns:
        `int`: how many these are.
    """
    methods = {method["label"]: method for method in results["methods"] if method["status"] == "ok"}
    with quiet():
        experiment = Experiment(config)
        store = RunStore(Path(config.output_dir) / "runs")
        before = len(store.results)
        for plan in make_plans(experiment):
            if plan.name in methods:
                restore_method(experiment, store, plan, methods[plan.name], results)
    return len(store.results) - before


def restore_method(
    experiment: Experiment, store: RunStore, plan: MethodPlan, method: dict[str, Any], results: dict[str, Any]
) -> None:
    """The runs of a method: all of them where its final runs are such as would be done now, else none."""
    if method["setting"] not in plan.settings:
        return
    final = [(run, method["runs"].get(str(run.seed), {})) for run in plan.final_runs(experiment, method["setting"])]
    if any(result.get("key") != run.key for run, result in final):
        return
    # The keys of trials are not published; what decides on their rows beside what the final runs share is.
    same_search = results["config"]["search"]["validation_fraction"] == experiment.config.search.validation_fraction
    trials = [
        (run, {"metrics": {experiment.metric: trial["scores"][str(run.seed)]}})
        for trial in method["trials"]
        if trial["setting"] in plan.settings and same_search
        for run in plan.trial_runs(experiment, trial["setting"])
        if str(run.seed) in trial["scores"]
    ]
    for run, result in [*trials, *final]:
        if store.get(run) is None:
            store.put(run, {**described(plan, run), **result, "environment": results["environment"]})


def described(plan: MethodPlan, run: Run) -> dict[str, Any]:
    """What a run's file says of it beside its results."""
    return {
        "method": plan.method.method,
        "seed": run.seed,
        "setting": run.setting,
        "steps": run.steps,
        "restored": True,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, choices=PAIRS, metavar="PAIR")
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--work_dir", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    found = files(args.results_dir)
    for rows in args.rows:
        for name in args.pairs:
            results = found.get(f"{name}/{rows}/results.json")
            if results is not None:
                content = load_pair(name, rows)
                make_model(content)
                config = load_config({**content, "output_dir": str(args.work_dir / name / str(rows))})
                print(f"{name}, {rows} rows: {restore(config, results)} runs")


if __name__ == "__main__":
    main()
