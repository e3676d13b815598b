"""Putting a model on the Hub: its card, and what belongs beside it."""

from .errors import PublishError
from .mixin import ModelCardMixin
from .publish import publish_folder


__all__ = ["ModelCardMixin", "PublishError", "publish_folder"]
