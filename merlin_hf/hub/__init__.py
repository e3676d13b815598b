"""Put a model on the Hub: the files to send, the model card, and errors that say what would work."""

from .errors import PublishError
from .mixin import ModelCardMixin
from .publish import publish_folder


__all__ = ["ModelCardMixin", "PublishError", "publish_folder"]
