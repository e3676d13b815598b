"""Features of rows by a pretrained backbone, and gradients in its parameters."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..comparison.models import build_model, load_encoder, load_model_config
from ..comparison.progress import quiet
from ..data.labels import Labels
from ..data.rows import Rows
from ..transfer.model import TransferModel
from ..utils.validation import ConfigError
from .gradients import backbone_parameters, pull_back
from .settings import RankingSettings


class Backbone:
    """
    A pretrained model in evaluation mode: no dropout, and BatchNorm as it was trained.

    Layers that are new in the model are drawn for the `labels` of the target.
    """

    def __init__(self, settings: RankingSettings, labels: Labels, kind: str):
        with quiet():
            model_config = load_model_config(settings, labels)
            self.encoder = load_encoder(settings, model_config, kind)
            # The layers between the backbone and the head of, say, RoBERTa are new, and the same for all sources.
            model = build_model(settings, model_config, kind, seed=0).to(settings.device).eval()
        self.batch_size = settings.batch_size
        self.device = settings.device
        try:
            self.transfer_model = TransferModel(model, num_source_labels=0)
            self.parameters = backbone_parameters(self.transfer_model, settings.layers)
        except ValueError as error:
            raise ConfigError(f"`model={settings.model!r}`: {error}") from error

    def encode(self, rows: Rows) -> "Encoded":
        """Return the model's inputs of these rows, and their features."""
        return Encoded(self, rows)


class Encoded:
    """
    Encoded rows, and their features by a backbone.

    Attributes:
        labels (`torch.Tensor` of shape `(n,)`): class ids, or real numbers in float64.
    """

    def __init__(self, backbone: Backbone, rows: Rows):
        self.backbone = backbone
        self.num_labels = rows.task.labels.num_labels
        self.labels = torch.as_tensor(rows.labels, device=backbone.device)
        with quiet():
            self._dataset = backbone.encoder(rows)
        self._order = list(range(len(rows)))
        if "input_ids" in self._dataset.column_names:
            # Texts of about a length together: less padding. Rows do not depend on their batch in evaluation mode.
            lengths = [len(row) for row in self._dataset["input_ids"]]
            self._order.sort(key=lengths.__getitem__)

    def __len__(self) -> int:
        return len(self.labels)

    def _batches(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for start in range(0, len(self), self.backbone.batch_size):
            rows = self._order[start : start + self.backbone.batch_size]
            batch = self.backbone.encoder.collator([self._dataset[row] for row in rows])
            inputs = {
                name: value.to(self.backbone.device)
                for name, value in batch.items()
                if name not in ("labels", "label")
            }
            yield inputs, torch.tensor(rows, device=self.backbone.device)

    @cached_property
    @torch.no_grad()
    def features(self) -> Tensor:
        """Compute the features, by one pass forward."""
        found, places = [], []
        with self.backbone.transfer_model.feature_mode():
            for inputs, rows in self._batches():
                found.append(self.backbone.transfer_model.features(inputs).float())
                places.append(rows)
        return torch.cat(found)[torch.cat(places).argsort()]

    def pull_back(self, gradients: list[Tensor]) -> list[list[Tensor]]:
        """Turn gradients in the features `(n, hidden_size)` into ones in the parameters, by one pass forward."""
        return pull_back(self.backbone.transfer_model, self._batches(), gradients, self.backbone.parameters)
