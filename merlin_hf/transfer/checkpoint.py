"""What training needs beside the plain model, in a file of its own."""

import os
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..trainer_base import TrainerBase
from .distributed import whole
from .model import TransferModel
from .whole_checkpoints import TRANSFER_STATE_NAME


PREFIX = "model."  # of the classifier's tensors in a TransferModel
KEPT = "kept."  # of what a regularizer keeps beside its parameters
RUN = "run."  # of what a resumed run must agree with


def transfer_state(transfer_model: TransferModel) -> dict[str, Tensor]:
    """All but the classifier, whole and on the CPU; a collective where the model is sharded."""
    own = {name: p for name, p in transfer_model.named_parameters() if not name.startswith(PREFIX)}
    state = {name: whole(parameter).cpu().contiguous() for name, parameter in own.items()}
    if transfer_model.regularizer is not None:
        kept = transfer_model.regularizer.tensors()
        state.update({f"{KEPT}{name}": tensor.detach().cpu().contiguous() for name, tensor in kept.items()})
    return state


def plain_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a `state_dict` of a [`TransferModel`] has of the classifier, under the classifier's own names."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def save_transfer_state(state: dict[str, Tensor], folder: str) -> None:
    """
    Write what [`transfer_state`] returned to `folder/transfer_state.safetensors`, whole or not at all.

    The classifier itself is saved by `save_pretrained` next to it and knows nothing of this file.
    """
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    save_file(state, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_transfer_state(transfer_model: TransferModel, folder: str) -> None:
    """
    Read back what [`save_transfer_state`] wrote.

    Raises:
        FileNotFoundError: the checkpoint was written by plain Trainer, or without a source data set.
        ValueError: its source head or its scalars are not those of this run.
    """
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{folder} has no {TRANSFER_STATE_NAME}: it was not written by a run with a `source_dataset` or by this method, or with "
            "`save_only_model=True`. Load its weights with `from_pretrained` and start a new run instead of resuming."
        )
    saved = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(RUN)}
    kept = {name.removeprefix(KEPT): saved.pop(name) for name in list(saved) if name.startswith(KEPT)}
    wanted = {n: t for n, t in transfer_model.state_dict().items() if not n.startswith(PREFIX)}
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in wanted.items()}:
        raise ValueError(
            f"{path} holds { {n: tuple(t.shape) for n, t in sorted(saved.items())} }, but this run has "
            f"{ {n: tuple(t.shape) for n, t in sorted(wanted.items())} }. Resume with the same `source_dataset` labels, "
            "the same learned scalars and the same options of the method."
        )
    transfer_model.load_state_dict(saved, strict=False)
    if kept and transfer_model.regularizer is not None:
        transfer_model.regularizer.load_tensors(transfer_model, kept)


def read_run_state(folder: str) -> dict[str, Tensor]:
    """What [`TransferCheckpointsMixin.run_state`] gave when a checkpoint was written; nothing where there is no such file."""
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    if not os.path.isfile(path):
        return {}
    with safe_open(path, framework="pt") as file:
        return {name.removeprefix(RUN): file.get_tensor(name) for name in file.keys() if name.startswith(RUN)}


class TransferCheckpointsMixin(TrainerBase):
    """
    For a [`~transformers.Trainer`] with a `transfer_model`: a checkpoint is that of the plain classifier, whole also where it is
    trained in shards, and beside it what only training needs.
    """

    model: Any

    def run_state(self) -> dict[str, Tensor]:
        """What a run that resumes from a checkpoint must agree with."""
        return {}

    def check_run_state(self, saved: dict[str, Tensor]) -> None:
        """Check what [`TransferCheckpointsMixin.run_state`] gave when the checkpoint was written."""

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.transfer_model is not None:
            state = transfer_state(self.transfer_model)
            state.update({f"{RUN}{name}": tensor for name, tensor in self.run_state().items()})
            if self.args.should_save:
                save_transfer_state(state, output_dir)

    def save_model(self, output_dir=None, _internal_call=False):
        """Trainer's `save_model`, with a head that belongs to the current backbone, and whole where the model is sharded."""
        self.settle_head()
        if self.is_fsdp_enabled and "FULL_STATE_DICT" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            # Trainer leaves the model out here.
            state_dict = self.accelerator.get_state_dict(self.model)  # a collective
            if self.args.should_save:
                self._save(output_dir, state_dict=state_dict)
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is None or self.transfer_model is None:
            return super()._save(output_dir, state_dict)
        model, self.model = self.model, self.transfer_model.model
        try:
            # Evaluated but never trained, DeepSpeed wraps the classifier itself.
            is_transfer = isinstance(self.accelerator.unwrap_model(self.model_wrapped), TransferModel)
            super()._save(output_dir, plain_state(state_dict) if is_transfer else state_dict)
        finally:
            self.model = model

    def _load_optimizer_and_scheduler(self, checkpoint):
        # Sharded, they are part of the model that has been loaded already.
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.is_active and checkpoint is not None:
            self.check_run_state(read_run_state(checkpoint))
            if not is_sharded:
                load_transfer_state(self.transfer_model, checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)
