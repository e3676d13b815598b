"""Training arguments of all methods, with the checks that need no data."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from transformers import TrainingArguments
from transformers.debug_utils import DebugOption
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig

from .heads import HeadSolver, get_head
from .heads.base import REGRESSION, SINGLE_LABEL
from .utils.probabilities import is_lower_better
from .utils.validation import (
    JSON_FILE,
    ConfigError,
    Count,
    NonNegative,
    Positive,
    Share,
    Text,
    Words,
    check_options,
    interval,
    shown,
)


SPLITS = ("half", "kfold", "loo")
HEAD_SCOPES = ("global", "local")

REPORTERS = ("all", "none", *INTEGRATION_TO_CALLBACK)
# Ranges of the numbers that transformers takes, and types where it takes other values than its annotations say.
INHERITED: dict[str, Any] = {
    **dict.fromkeys(
        (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
            "eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor", "ddp_bucket_cap_mb",
            "ddp_timeout",
        ),
        interval("[1, inf)"),
    ),
    **dict.fromkeys(
        (
            "num_train_epochs", "warmup_steps", "weight_decay", "adam_epsilon", "neftune_noise_alpha",
            "logging_steps", "eval_steps", "eval_delay", "save_steps", "save_total_limit",
        ),
        interval("[0, inf)"),
    ),
    "output_dir": Text | None,
    "max_steps": interval("[-1, inf)"),
    "local_rank": interval("[-1, inf)"),
    "learning_rate": interval("[0, 1e6]"),
    "adam_beta1": interval("[0, 1)"),
    "adam_beta2": interval("[0, 1)"),
    "label_smoothing_factor": interval("[0, 1]"),
    "max_grad_norm": NonNegative | None,
    "seed": interval(f"[0, {2**32 - 1}]"),  # of NumPy
    "data_seed": interval(f"[0, {2**63 - 1}]"),  # of PyTorch
    "dataloader_num_workers": interval("[0, 10_000]"),
    "include_num_input_tokens_seen": bool | Literal["all", "non_padding", "no"],
    "report_to": Literal[REPORTERS] | list[Literal[REPORTERS]] | None,  # type: ignore[valid-type]
    "resume_from_checkpoint": str | bool | None,
    "debug": str | list[DebugOption] | None,
    "fsdp": str | bool | list | None,
    "fsdp_config": Annotated[dict | str, JSON_FILE] | None,
    "deepspeed": Annotated[dict | str, JSON_FILE] | None,
    "accelerator_config": Annotated[dict | str, JSON_FILE] | AcceleratorConfig | None,
}  # fmt: skip


def parse_mix(mix: str | Mapping[str, float]) -> str | dict[str, float]:
    """Return the option `source_mix`: `"proportional"`, `"equal"` or positive weights by name; else a `ValueError`."""
    if mix in ("proportional", "equal"):
        return str(mix)
    try:
        pairs = dict(mix) if isinstance(mix, Mapping) else dict(part.split("=") for part in str(mix).split(","))
        weights = {str(name).strip(): float(weight) for name, weight in pairs.items()}
        if not weights or any(not 0 < weight < math.inf for weight in weights.values()):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            "`source_mix` must be 'proportional', 'equal' or positive weights such as 'mnli=0.7,snli=0.3', got "
            f"{mix!r}."
        ) from None
    return weights


@dataclass
class TransferTrainingArguments(TrainingArguments):
    """
    [`~transformers.TrainingArguments`] for a run with a source data set.

    `per_device_train_batch_size`, `num_train_epochs` and all inherited options are about the target, `train_dataset`.

    Args:
        per_device_source_batch_size (`int`, *optional*): source rows per device and step; the target's if not given.
        target_chunk_size (`int`, *optional*): target rows per device that go through the backbone at a time, with
            their activations computed again in the backward pass: the target batch, which a head is fit on as a whole,
            may then be larger than memory holds. Costs a second forward pass of the target's rows.
        source_weight (`float`): factor of the source loss.
        num_source_labels (`int`, *optional*): outputs of the source head; read from `source_dataset` if not given.
        source_mix (`str` or `dict`): the shares of the batches that several sources get: `"proportional"` to their
            numbers of rows, `"equal"`, or weights such as `"mnli=0.7,snli=0.3"`.
        head_module (`str`, *optional*): name of the model's last layer, when it cannot be found (see
            [`~merlin_hf.transfer.model.find_head`]).
        head_learning_rate (`float`, *optional*): learning rate of the heads that are trained by gradient descent (the
            source head; the model's own last layer where a method trains it). If not given, `learning_rate`, and ten
            times that in MeRLin with `mix_weights`.
        overwrite_output_dir (`bool`): delete the checkpoints in `output_dir` when a training starts that does not
            resume from one. `merlin-hf train` and the programs resume by themselves where they find a checkpoint of
            the same run, and refuse that of another; with this they do neither.
    """

    per_device_source_batch_size: Count | None = field(
        default=None,
        metadata={"help": "Source rows per device and step. Default: per_device_train_batch_size."},
    )
    target_chunk_size: Count | None = field(
        default=None,
        metadata={
            "help": "Target rows per device that are in memory at a time, for large target batches. Default: all."
        },
    )
    source_weight: NonNegative = field(default=1.0, metadata={"help": "Factor of the source loss."})
    num_source_labels: Annotated[int, interval("[1, 10_000_000]")] | None = field(
        default=None,
        metadata={"help": "Outputs of the source head. Default: read from the labels of source_dataset."},
    )
    source_mix: str = field(
        default="proportional",
        metadata={"help": "Mix several sources: proportional, equal, or weights such as mnli=0.7,snli=0.3."},
    )
    head_module: str | None = field(
        default=None,
        metadata={"help": "Name of the model's last torch.nn.Linear, for models where it cannot be found."},
    )
    head_learning_rate: Annotated[float, interval("(0, 1e6]")] | None = field(
        default=None,
        metadata={
            "help": "Learning rate of heads trained by gradient descent. Default: learning_rate; 10 times for a mix."
        },
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Delete the checkpoints of earlier runs in output_dir and start again, in place of resuming."
        },
    )

    checked_types = INHERITED  # without an annotation: no field

    def __post_init__(self):
        self.check_options(self)  # before transformers uses them
        if self.greater_is_better is None and is_lower_better(self.metric_for_best_model):
            self.greater_is_better: bool | None = False  # transformers takes this for losses alone
        super().__post_init__()
        self.check_options(self)

    @classmethod
    def check_options(cls, args: TrainingArguments) -> None:
        """
        Raise a `ValueError` if an option is out of its range, also one set later or on plain `TrainingArguments`.

        Override it, and call it first, where options of a method must fit together.
        """
        if isinstance(args.source_mix, Mapping):
            args.source_mix = ",".join(f"{name}={weight}" for name, weight in args.source_mix.items())
        check_options(args, cls)
        parse_mix(args.source_mix)


@dataclass
class MerlinTrainingArguments(TransferTrainingArguments):
    """
    [`TransferTrainingArguments`] for [`MerlinTrainer`].

    Args:
        mix_weights (`bool`): train on each half of the target rows, with both losses in every step, and on the source
            alone, all from the same weights. Then add up what each has learned, with the factors that rows of the
            other half choose (see [`~merlin_hf.transfer.mixing`]), and fit the final head by logistic regression. One
            step in seven has target rows, so that they are not memorised. A model with random weights is trained on
            the source in the first half of the steps, and on the meta loss in the second. `False`: both losses in
            every step.
        source_phase_fraction (`float`): share of all steps, at their beginning, that train on the source alone, in [0,
            1); MeRLin starts from the features that they lead to, with a fresh optimizer and a schedule of its own:
            warm-up and decay take place in each phase. Target batches are drawn in all, so that epochs count all
            steps.
        target_phase_fraction (`float`): share of all steps, at their end, that train on the meta loss alone, in [0,
            1), as if rho were infinite; again with a fresh optimizer and a schedule of its own. What is left between
            both phases are the steps on both losses, none where the two shares add up to 1.
        rho (`float`): factor of the meta loss (the paper's rho).
        balance_gradients (`bool`): never let the meta loss pull harder at the features than the source loss, before
            `source_weight`: where its gradient there is larger, `rho` is multiplied by the ratio (see
            [`~merlin_hf.transfer.balance`]). `False` is the paper's fixed `rho`.
        head (`str`, *optional*): the solver that fits the target head, a name in `merlin_hf.heads.HEADS`. Default:
            `"centroid"`, the class means, the cheapest, and the paper's `"ridge"` where class means cannot be: for
            real labels and `split="loo"`.
        head_l2 (`float`, *optional*): the head's regulariser, relative to the mean squared norm of its training
            features; the solver's own default if not given.
        learn_logit_scale (`bool`): learn the scale of the head's logits; not used for real labels.
        logit_scale (`float`, *optional*): that scale, or its first value; the solver's own default if not given.
        head_scope (`str`): `"global"`: the head is fitted and scored on the target rows of all processes, so N
            processes with batch b compute what one process with batch N * b does. `"local"`: each process has a head
            of its own, fit on its own rows; another objective, with smaller halves, whose average over processes is
            minimised.
        split (`str`): how a target batch is divided, each time from the same features. `"half"`: `num_splits` random
            splits; each head is fit on `1 - validation_fraction` of each class. A fit on few rows is noisy, and
            features that make it succeed anyway transfer best (the paper's choice). `"kfold"`: `num_splits` folds,
            each row judged once, by a head fit on all but one fold. The same cost. With many folds it nears `"loo"`.
            `"loo"`: each row is scored by the head fitted on all others, in closed form from one fit (`head="ridge"`
            only), the cheapest. A head fit on nearly all rows does well on features that have memorised them.
        validation_fraction (`float`): share of each target batch that the head is scored on with `split="half"`, in
            (0, 1).
        num_splits (`int`): random splits, or folds, of the same features per step, averaged.
        scalar_learning_rate (`float`): learning rate of the learned scalars, which are logarithms.
        refit_l2 (`str`): regulariser of the final head, fit on the whole target set: `"auto"` (chosen by
            cross-validation on the target's training rows; class means keep their default), `"meta"` (the one used in
            training; with `mix_weights` the one that rows of the other half choose), or a number.
    """

    mix_weights: bool = field(
        default=True,
        metadata={
            "help": "Train on two halves of the target and on the source from the same weights, and mix what each has "
            "learned. False: both losses in every step, as in the paper."
        },
    )
    source_phase_fraction: Annotated[float, interval("[0, 1)")] = field(
        default=0.0,
        metadata={"help": "Share of the steps, at their beginning, that train on the source alone, in [0, 1)."},
    )
    target_phase_fraction: Annotated[float, interval("[0, 1)")] = field(
        default=0.0,
        metadata={"help": "Share of the steps, at their end, that train on the meta loss alone, in [0, 1)."},
    )
    rho: NonNegative = field(default=1.0, metadata={"help": "Factor of the meta loss (rho in the paper)."})
    balance_gradients: bool = field(
        default=False,
        metadata={
            "help": "Scale rho down where the meta loss would drown the source loss. False: the paper's fixed rho."
        },
    )
    head: Text | None = field(
        default=None,
        metadata={
            "help": "Solver of the target head, a name in merlin_hf.heads.HEADS. Default: centroid, or ridge for real "
            "labels and loo."
        },
    )
    head_l2: Positive | None = field(
        default=None,
        metadata={"help": "Regulariser of the head, relative to its features. Default: the solver's own."},
    )
    learn_logit_scale: bool = field(default=True, metadata={"help": "Learn the scale of the head's logits."})
    logit_scale: Positive | None = field(
        default=None,
        metadata={"help": "Scale of the head's logits, or its first value. Default: the solver's own."},
    )
    head_scope: str = field(
        default="global",
        metadata={
            "help": "Rows that a head sees: those of all processes (global) or of each by itself (local).",
            "choices": list(HEAD_SCOPES),
        },
    )
    split: str = field(
        default="half",
        metadata={"help": "How a target batch is divided: half, kfold or loo (ridge only).", "choices": list(SPLITS)},
    )
    validation_fraction: Share = field(
        default=0.5,
        metadata={"help": "Share of each target batch that the head is scored on, in (0, 1)."},
    )
    num_splits: Annotated[int, interval("[1, 100_000]")] = field(
        default=8, metadata={"help": "Random splits of the same features per step, averaged."}
    )
    scalar_learning_rate: Annotated[float, interval("(0, 1e6]")] = field(
        default=1e-2,
        metadata={"help": "Learning rate of the learned scalars (which are logarithms)."},
    )
    refit_l2: Annotated[str, Words(("auto", "meta")), interval("(0, inf)")] = field(
        default="meta",
        metadata={
            "help": "Regulariser of the final head: 'auto' (cross-validation), 'meta' (as trained) or a number."
        },
    )

    @classmethod
    def paper(cls, *args: Any, **kwargs: Any) -> "MerlinTrainingArguments":
        """
        Return arguments with the paper's objective: both losses in every step, a fixed rho and ridge regression.

        Other arguments are those of the constructor; they win.
        """
        objective = {"mix_weights": False, "balance_gradients": False, "head": "ridge", "rho": 1.0}
        return cls(*args, **{**objective, **kwargs})

    @classmethod
    def check_options(cls, args: TrainingArguments) -> None:
        """Check the options, and that they fit together; a number for `refit_l2` may come as text."""
        super().check_options(args)
        solver = check_head(default_head(args, SINGLE_LABEL) if args.head is None else args.head, "head")
        if args.split == "loo" and not hasattr(solver, "leave_one_out"):
            raise ValueError(
                f"`split='loo'` needs `head='ridge'`, the one with a closed form for it; got {args.head!r}."
            )
        if args.source_weight == 0 and args.rho == 0:
            raise ValueError(
                "`source_weight=0` and `rho=0` leave no loss to train on. Set one of them above 0; the defaults are "
                "1.0 and 1.0."
            )
        if args.split == "kfold" and args.num_splits < 2:
            raise ValueError(f"`split='kfold'` needs `num_splits` of at least 2 folds, got {args.num_splits}.")
        source, target = args.source_phase_fraction, args.target_phase_fraction
        if args.mix_weights and (source or target):
            raise ValueError(
                f"`source_phase_fraction={source}` and `target_phase_fraction={target}` divide a run that "
                "`mix_weights=True` divides by itself. Leave them out, or set `mix_weights=False`."
            )
        if source + target > 1 + 1e-9:
            raise ValueError(
                "`source_phase_fraction` and `target_phase_fraction` are shares of the same steps and must not add "
                f"up to more than 1, got {source} and {target}. Lower one of them; 0.5 and 0.5 leave no steps on both "
                "losses."
            )


def default_head(args: TrainingArguments, problem_type: str) -> str:
    """Return the solver where `args.head` is `None`: class means, or ridge for real labels and leave-one-out."""
    return "ridge" if problem_type == REGRESSION or args.split == "loo" else "centroid"


def check_head(name: str, option: str) -> HeadSolver:
    """Return the solver of that name; a `ValueError` that names the option if there is none."""
    try:
        return get_head(name)
    except ValueError as error:
        raise ConfigError(f"`{option}={shown(name)}` is unknown: {error}") from None


def add_missing_options(args: TrainingArguments, options: type[TransferTrainingArguments]) -> None:
    """Set the defaults of `options` on plain `TrainingArguments`, so that scripts that pass these work; check them."""
    if isinstance(args, options):
        return
    known = {option.name for option in dataclasses.fields(TrainingArguments)}
    for option in dataclasses.fields(options):
        if option.name not in known and not hasattr(args, option.name):
            setattr(args, option.name, option.default)
    options.check_options(args)
