"""What a comparison is going to do: the settings of each method, and which methods cannot be used."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..utils.validation import ConfigError, first_sentence
from .experiment import Experiment, check_settings
from .method_config import MethodConfig
from .runs import FINAL, TRIAL, Run, RunStore
from .search import trial_settings


@dataclass
class MethodPlan:
    """
    The runs of a method.

    Args:
        method ([`MethodConfig`]).
        settings (`list[dict]`): those that are tried, the defaults first; a single one is not tried but used.
        reason (`str`, *optional*): why the method cannot be used with this model and data.
    """

    method: MethodConfig
    settings: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None

    @property
    def label(self) -> str:
        """The method's line in the table."""
        return self.method.label

    @property
    def searches(self) -> bool:
        """Whether there is anything to choose from."""
        return len(self.settings) > 1

    def trial_runs(self, experiment: Experiment, setting: dict[str, Any]) -> list[Run]:
        """A setting with each seed of the search."""
        seeds = experiment.config.search_seeds
        return [experiment.make_run(self.method, TRIAL, seed, setting) for seed in seeds]

    def final_runs(self, experiment: Experiment, setting: dict[str, Any]) -> list[Run]:
        """The chosen setting with each seed of the comparison."""
        seeds = experiment.config.seeds
        return [experiment.make_run(self.method, FINAL, seed, setting) for seed in seeds]

    def all_trials(self, experiment: Experiment) -> Iterator[Run]:
        """The trials of all settings."""
        for setting in self.settings if self.searches else ():
            yield from self.trial_runs(experiment, setting)

    def count(self, experiment: Experiment) -> int:
        """How many runs there are."""
        trials = len(self.settings) * len(experiment.config.search_seeds) if self.searches else 0
        return 0 if self.reason else trials + len(experiment.config.seeds)


def make_plans(experiment: Experiment) -> list[MethodPlan]:
    """
    A plan for each method, with every setting checked.

    Raises:
        ConfigError: an option cannot be used.
    """
    plans = []
    for method in experiment.config.methods:
        plan = MethodPlan(method, settings_of(experiment, method))
        check_settings(experiment, method, plan.settings)
        if plan.searches:
            for seed in experiment.config.search_seeds:
                experiment.pair.rows_of(TRIAL, seed)  # enough rows to set some aside
        plans.append(plan)
    return plans


def settings_of(experiment: Experiment, method: MethodConfig) -> list[dict[str, Any]]:
    """The settings that are tried for a method; the defaults alone where there is no search."""
    config = experiment.config
    check_settings(experiment, method, [{}])
    if config.search.trials < 2:
        return [{}]
    args = experiment.training_args(method, {})
    own = method.trainer_class.search_space if method.search is None else method.search
    space = {} if experiment.steps(method, {}) == 0 else {"learning_rate": config.search.learning_rates}
    space = {name: list(values) for name, values in {**space, **own}.items() if name not in method.options}
    defaults = {name: getattr(args, name) for name in space}
    return trial_settings(defaults, space, config.search.trials)


def find_unusable(experiment: Experiment, plans: list[MethodPlan], store: RunStore) -> None:
    """
    Build a trainer of each method, so that one which cannot be used is known before any other has run for hours.

    Methods that have run before are left out.

    Raises:
        ConfigError: a value of the configuration is why.
    """
    for plan in plans:
        first = next(plan.all_trials(experiment), None) or plan.final_runs(experiment, plan.settings[0])[0]
        if store.get(first) is not None:
            continue
        try:
            experiment.build_trainer(plan.method, first)
        except ConfigError:
            raise
        except (ValueError, NotImplementedError) as error:
            plan.reason = first_sentence(error)
        finally:
            experiment.clean_up()
