"""Which of a classifier's weights pretraining did not have."""

from torch import nn

from ..transfer.model import TransferModel


def trained_parameters(transfer_model: TransferModel) -> dict[str, nn.Parameter]:
    """The classifier's parameters that are trained, by name."""
    return {name: p for name, p in transfer_model.model.named_parameters() if p.requires_grad}


def new_parameters(transfer_model: TransferModel, has_source: bool) -> set[str]:
    """
    Names of the parameters that are new to the target.

    Those of the last layer; without a source, whose training reaches all below it, also what else lies outside the base model, such as
    the layer that RoBERTa has before it.
    """
    model = transfer_model.model
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    base = {id(parameter) for parameter in getattr(plain, "base_model", plain).parameters()}
    head = f"{transfer_model.head_name}."
    return {
        name
        for name, parameter in trained_parameters(transfer_model).items()
        if name.startswith(head) or not (has_source or id(parameter) in base)
    }
