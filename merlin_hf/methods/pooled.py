"""One head for the rows of both tasks."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch.utils.data import ConcatDataset, Dataset

from ..transfer.labels import label_column
from ..transfer.phases import Phase
from ..transfer.shared_labels import need_shared_labels
from ..transfer.trainer import TransferTrainer


class Relabelled(Dataset[dict[str, Any]]):
    """
    Rows of a data set with other class ids.

    Args:
        dataset (`Sequence`): rows as mappings.
        column (`str`): the column of its labels.
        ids (`list[int]`): the new id of each class.
        name (`str`): the new name of the column.
    """

    def __init__(self, dataset: Any, column: str, ids: Sequence[int], name: str):
        self.dataset, self.column, self.ids, self.name = dataset, column, ids, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = dict(self.dataset[place])
        label = row.pop(self.column)
        return {**row, self.name: [self.new(one) for one in label] if isinstance(label, list) else self.new(label)}

    def new(self, label: int) -> int:
        """Return the new id of a class; -100 is none."""
        return self.ids[int(label)] if label >= 0 else int(label)


class PooledTrainer(TransferTrainer):
    """
    Training on the rows of both tasks put together, with one head.

        min over phi, theta:  mean over the rows of both tasks of the loss of theta, phi

    It is [`~transformers.Trainer`] on the concatenated rows, so a small target has little influence. The labels of
    both tasks must have the same names. Names that differ only in upper and lower case are matched, with a warning.
    Other names are an error. A batch has rows of both tasks, so `source_collator` and `source_compute_loss_func`
    cannot be used.

    A step costs one batch.
    """

    needs_source: ClassVar[bool] = True
    averages_loss: ClassVar[bool] = True
    takes_several_sources: ClassVar[bool] = False
    uses_shared_labels: ClassVar[bool] = True

    @classmethod
    def plan_phases(cls, args, has_source):
        """Return one phase: a step has one batch, of rows of both tasks."""
        return (Phase("source and target", 1.0, uses_source=False, uses_target=True),)

    @property
    def is_active(self):
        """False: in its steps it is plain `Trainer`."""
        return False

    def _get_ready(self):
        super()._get_ready()
        self.check_pooled()

    def check_pooled(self) -> None:
        """Raise a `ValueError` if rows of both tasks cannot be in one batch."""
        need_shared_labels(self)
        for argument in ("train_dataset", "source_dataset"):
            if not hasattr(getattr(self, argument), "__len__"):
                raise ValueError(f"PooledTrainer puts rows together, and `{argument}` does not tell how many it has.")
        for argument in ("source_collator", "source_compute_loss_func"):
            if getattr(self, argument) is not None:
                raise ValueError(f"PooledTrainer has rows of both tasks in a batch: leave out `{argument}`.")

    def get_train_dataloader(self):
        """Return Trainer's DataLoader of the rows of both tasks."""
        given = self.train_dataset
        columns = [label_column(dataset) or "labels" for dataset in (self.source_dataset, given)]
        source = Relabelled(self.source_dataset, columns[0], need_shared_labels(self), columns[1])
        self.train_dataset = ConcatDataset([given, source])
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = given
