"""The data and the model of a comparison, and one training run on them."""

import gc
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments, set_seed

from .. import __version__
from ..data.encoding import names_by_output
from ..data.rows import Rows
from ..data.tasks import IMAGE, TAGGED
from ..training_args import parse_mix
from ..transfer.shared_labels import match_labels, shared_labels_line
from ..utils.files import file_names
from ..utils.validation import ConfigError, first_sentence
from .config import CompareConfig, MethodConfig
from .identity import describe_environment, own_code
from .metrics import CLASSIFICATION, REGRESSION, TAGGING, make_compute_metrics
from .models import build_model, load_encoder, load_model_config, model_identity
from .pair import TaskPair
from .progress import Progress, StepCallback
from .store import FORMAT, Run, SavedModels


SETUP = ("use_cpu", "ddp_backend", "ddp_timeout")  # options that decide on the device and the processes
DEFAULTS = {"per_device_eval_batch_size": 64, "report_to": "none"}
TABLES = ("results.json", "table.md", "results.csv", "comparison.png")


class Experiment:
    """
    The data and the model that all runs of a comparison share, and how one of them is done.

    Args:
        config ([`CompareConfig`]): the comparison.
        root (`str` or `Path`, *optional*): the folder of `runs`, which several comparisons may share; `output_dir` if
            not given.

    Raises:
        ConfigError: the data, the model or the metric are not there or do not fit together.
    """

    def __init__(self, config: CompareConfig, root: str | Path | None = None):
        self.config = config
        self.root = Path(config.output_dir if root is None else root)
        self.folders = file_names(method.name for method in config.methods)
        self._folder = tempfile.TemporaryDirectory(prefix="merlin_hf-")  # Trainer wants one; nothing is kept there
        # Training arguments set up the processes when asked for the device; the state can then be asked.
        given = {name: config.training[name] for name in SETUP if name in config.training}
        self.device = TrainingArguments(self._folder.name, **given).device
        self.processes = PartialState()
        self.models = SavedModels(config.output_dir, self.folders if config.save_models else {}, self.processes)
        with self.processes.local_main_process_first():
            self.pair = TaskPair(config)
        self.labels = self.pair.labels
        self.model_config = load_model_config(config, self.labels)
        self.encoder = load_encoder(config, self.model_config, self.pair.pool.kind)
        is_of_tags, is_regression = self.pair.pool.kind == TAGGED, self.labels.is_regression
        self.metric_names = TAGGING if is_of_tags else REGRESSION if is_regression else CLASSIFICATION
        self.metric = config.metric or self.metric_names[0]
        if self.metric not in self.metric_names:
            kind = "tags" if is_of_tags else "real numbers" if is_regression else "classes"
            raise ConfigError(
                f"`metric` must be one of {', '.join(self.metric_names)} for labels that are {kind}, got "
                f"{self.metric!r}."
            )
        self.compute_metrics = make_compute_metrics(
            is_regression, names_by_output(self.labels) if is_of_tags else None
        )
        self.encoded: dict[str, datasets.Dataset] = {}

    def method_of(self, run: Run) -> MethodConfig:
        """Return the method of a run."""
        return next(method for method in self.config.methods if method.name == run.label)

    def sources_of(self, method: MethodConfig) -> dict[str | None, Rows]:
        """Return the rows of each source that a method is given; a single one has no name."""
        chosen = method.use_source
        found = {
            name: rows for name, rows in self.pair.sources.items() if chosen is True or (chosen and name in chosen)
        }
        return {None: next(iter(found.values()))} if len(found) == 1 else found

    def shared_labels(self, method: MethodConfig) -> list[int] | None:
        """Return the target's class for each class of a method's only source, where it uses that their names agree."""
        uses = method.trainer_class.uses_shared_labels and method.options.get("start_from_source_head", True)
        source = self.sources_of(method).get(None)
        return match_labels(source.task.labels.names, self.labels.names) if uses and source is not None else None

    @property
    def shared_labels_line(self) -> str | None:
        """Return a line that says which methods use shared labels; `None` where there are none."""
        users = [method.name for method in self.config.methods if self.shared_labels(method) is not None]
        sources = {name: rows.task.labels.names for name, rows in self.pair.sources.items()}
        return shared_labels_line(sources, self.labels.names, users)

    def encode(self, rows: Rows) -> datasets.Dataset:
        """Return the model's inputs and labels, made once for all runs that have these rows."""
        if rows.identity not in self.encoded:
            with self.processes.local_main_process_first():
                self.encoded[rows.identity] = self.encoder(rows)
        return self.encoded[rows.identity]

    def make_run(self, method: MethodConfig, kind: str, seed: int, setting: dict[str, Any]) -> Run:
        """Describe a run, with all that determines its result."""
        train, eval_rows = self.pair.rows_of(kind, seed)
        steps = self.steps(method, setting)
        sources, shared_labels = self.sources_of(method), self.shared_labels(method)
        fingerprint = {
            "format": FORMAT,
            "merlin_hf": __version__,
            "method": method.method,
            "options": self.options(method, setting),
            "steps": steps,
            "seed": seed,
            "train_rows": train.identity,
            "judged_by": eval_rows.identity,
            "source_rows": in_order({name: rows.identity for name, rows in sources.items()}),
            "columns": [
                train.task.columns,
                in_order({name: rows.task.columns for name, rows in sources.items()}),
            ],
            "model": self._model_identity,
            "from_scratch": self.config.from_scratch,
            "freeze_layers": self.config.freeze_layers,
            **({"frozen_batch_norm": True} if self.config.freeze_layers and train.kind == IMAGE else {}),
            **own_code(method.trainer_class),
            **({"attn_implementation": self.config.attn_implementation} if self.config.attn_implementation else {}),
            **({} if shared_labels is None else {"shared_labels": shared_labels}),
            "input_size": self.config.image_size if train.kind == IMAGE else self.config.max_seq_length,
            "processes": self.processes.num_processes,
        }
        return Run(method.name, kind, seed, setting, steps, fingerprint)

    @cached_property
    def _model_identity(self) -> str:
        return model_identity(self.config, self.model_config)

    def options(self, method: MethodConfig, setting: dict[str, Any]) -> dict[str, Any]:
        """Return the options that the configuration and the search give; weights of the method's sources alone."""
        rate = self.config.default_learning_rate
        options = {"learning_rate": rate, **self.config.training, **method.options, **setting}
        if "source_mix" in options and None not in self.pair.sources:
            sources, mix = self.sources_of(method), parse_mix(options["source_mix"])
            if None in sources or not sources:
                del options["source_mix"]
            elif isinstance(mix, dict):
                options["source_mix"] = ",".join(f"{name}={mix[name]}" for name in sources if name is not None)
        return options

    def training_args(self, method: MethodConfig, setting: dict[str, Any], **more: Any) -> TrainingArguments:
        """Return the training arguments of a method with a setting, checked by their class."""
        options = {
            **DEFAULTS,
            "dataloader_pin_memory": torch.cuda.is_available(),
            **self.options(method, setting),
            "output_dir": self._folder.name,
            "disable_tqdm": True,
            "save_strategy": "no",
            "remove_unused_columns": not self.encoder.reads_lazily,  # a transform needs its columns
            **more,
        }
        sources = self.sources_of(method)
        if None in sources:  # of several, each is read from its rows
            options["num_source_labels"] = sources[None].task.labels.num_labels
        args = method.trainer_class.training_args_class(**options)
        if self.config.workers != 1 and args.n_gpu > 1:  # each worker sees one GPU; this process only plans
            args._n_gpu = 1
        return args

    def steps(self, method: MethodConfig, setting: dict[str, Any]) -> int:
        """Return how many steps fit into the budget of the comparison; 0 for a method that trains in closed form."""
        args = self.training_args(method, setting)
        rows = method.trainer_class.rows_per_step(args, bool(self.sources_of(method)))
        if not rows:
            return 0
        if self.config.budget == "steps":
            return self.config.training["max_steps"]
        return max(1, int(self.budget_rows / (rows * args.gradient_accumulation_steps) + 1e-9))

    @property
    def budget_rows(self) -> int:
        """Return how many rows each method may send through the backbone, forward and backward, on one device."""
        training = self.config.training
        target = training.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)
        source = training.get("per_device_source_batch_size") or target
        rows = target + (source if self.config.source is not None else 0)
        return training["max_steps"] * rows * training.get("gradient_accumulation_steps", 1)

    def build_trainer(self, method: MethodConfig, run: Run) -> tuple[Trainer, datasets.Dataset]:
        """Return the trainer of a run, and the rows to evaluate it on; raise a ValueError if it does not fit."""
        train, eval_rows = self.pair.rows_of(run.kind, run.seed)
        set_seed(run.seed)
        sources = {name: self.encode(rows) for name, rows in self.sources_of(method).items()}
        pairs = len(train.task.columns) == 2
        model = build_model(self.config, self.model_config, train.kind, run.seed, pairs)
        args = self.training_args(
            method, run.setting, seed=run.seed, max_steps=run.steps or self.config.training["max_steps"]
        )
        trainer = method.trainer_class(
            model=model,
            args=args,
            train_dataset=self.encode(train),
            data_collator=self.encoder.collator,
            processing_class=getattr(self.encoder, "tokenizer", None),
            compute_metrics=self.compute_metrics,
            **({"source_dataset": sources.get(None, sources)} if sources else {}),
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        return trainer, self.encode(eval_rows)

    def train_and_score(self, method: MethodConfig, run: Run, progress: Progress) -> dict[str, Any]:
        """Train a model and evaluate it once; return the scores with time, memory, and what the run was done with."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        trainer, eval_dataset = self.build_trainer(method, run)
        trainer.add_callback(StepCallback(progress, run))
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        scores = trainer.evaluate(eval_dataset=eval_dataset)
        self.models.save(trainer, run)
        result = {
            "method": method.method,
            "seed": run.seed,
            "setting": run.setting,
            "steps": run.steps,
            "budget_rows": self.budget_rows,
            "metrics": {name: scores[f"eval_{name}"] for name in self.metric_names},
            "train_rows": len(self.pair.rows_of(run.kind, run.seed)[0]),
            "judged_rows": len(eval_dataset),
            "train_seconds": seconds,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
            "log_history": trainer.state.log_history,
            "environment": self.environment,
            "config": self.config.to_dict(),
        }
        del trainer
        self.clean_up()
        return result

    @property
    def files(self) -> list[str]:
        """Return names of files that a comparison writes into `root`, at least one of each folder in it."""
        names, own = self.folders.values(), Path(self.config.output_dir).relative_to(self.root)
        found = [*TABLES, *(f"errors/{name}.txt" for name in names), *self.models.files(self.config.seeds)]
        return [*(f"runs/{name}/_" for name in names), *(str(own / name) for name in found)]

    def clean_up(self) -> None:
        """Free the memory of a finished run."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Return the versions and the device that runs are done with."""
        return describe_environment(self.device, self.processes.num_processes)


def in_order(values: dict[str | None, Any]) -> Any:
    """Return what is known of each source: of a single one its value, of several a list of names and values."""
    return values.get(None) if len(values) < 2 else [[name, value] for name, value in values.items()]


def check_settings(experiment: Experiment, method: MethodConfig, settings: list[dict[str, Any]]) -> None:
    """Check the options of every run of a method, before any of them starts."""
    for setting in settings:
        try:
            experiment.training_args(method, setting)
        except (ValueError, TypeError) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in {**method.options, **setting}.items())
            raise ConfigError(f"`methods.{method.name}` ({given}): {first_sentence(error)}") from error
