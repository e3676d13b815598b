"""Results and the course of training, from the log history of a Trainer: see [`merlin_hf.utils.log_history`]."""

from ..utils.log_history import *  # noqa: F403
