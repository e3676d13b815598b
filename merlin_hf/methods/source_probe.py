"""Training on the source alone, and a solved head for the target."""

from typing import ClassVar

from ..transfer.phases import Phase
from .embeddings import EmbeddingsHeadTrainer
from .task_losses import TaskLossesTrainer


class SourceOnlyTrainer(TaskLossesTrainer):
    """A trainer whose steps are all on the source; the target has no gradient."""

    needs_source: ClassVar[bool] = True
    trains_target_head: ClassVar[bool] = False

    @classmethod
    def plan_phases(cls, args, has_source):
        """Return the source's phase."""
        return (Phase("source", 1.0, uses_source=True, uses_target=False),)


class SourceProbeTrainer(EmbeddingsHeadTrainer, SourceOnlyTrainer):
    """
    Training on the source alone, then logistic regression on the frozen features of the target's rows.

        phi_1 = argmin over phi, theta_s from phi_0:  L_source(theta_s, phi)
        min over theta_t = (W, b):  sum over rows of L_target(theta_t, phi_1) + |W|^2 / (2 C)

    No gradient comes from the target, so the backbone cannot memorise its few rows. The regression is that of
    [`~merlin_hf.methods.EmbeddingsTrainer`].

    A step costs a batch of the source. The end costs one pass over the target's rows without gradient.
    """
