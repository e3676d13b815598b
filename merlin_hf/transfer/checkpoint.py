"""What training needs beside the plain model, in a file of its own."""

import os

from safetensors.torch import load_file, save_file

from .model import TransferModel


TRANSFER_STATE_NAME = "transfer_state.safetensors"


def save_transfer_state(transfer_model: TransferModel, folder: str) -> None:
    """
    Write the source head and the learned scalars to `folder/transfer_state.safetensors`, whole or not at all.

    The classifier itself is saved by `save_pretrained` next to it and knows nothing of this file.
    """
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in transfer_model.state_dict().items()
        if not name.startswith("model.")
    }
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    save_file(state, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_transfer_state(transfer_model: TransferModel, folder: str) -> None:
    """
    Read back what [`save_transfer_state`] wrote.

    Raises:
        FileNotFoundError: the checkpoint was written without a source data set.
        ValueError: its source head or its scalars are not those of this run.
    """
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{folder} has no {TRANSFER_STATE_NAME}: it was not written by a run with a `source_dataset`, or with "
            "`save_only_model=True`. Load its weights with `from_pretrained` and start a new run instead of resuming."
        )
    saved = load_file(path)
    wanted = {n: t for n, t in transfer_model.state_dict().items() if not n.startswith("model.")}
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in wanted.items()}:
        raise ValueError(
            f"{path} holds { {n: tuple(t.shape) for n, t in sorted(saved.items())} }, but this run has "
            f"{ {n: tuple(t.shape) for n, t in sorted(wanted.items())} }. Resume with the same `source_dataset` labels "
            "and the same learned scalars."
        )
    transfer_model.load_state_dict(saved, strict=False)
