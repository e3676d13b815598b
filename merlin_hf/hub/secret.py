"""A token that cannot be written to a file by accident."""

from typing import Any


class SecretToken(str):
    """
    A token for the Hub: a string that is pickled as `None` and shown as `<HUB_TOKEN>`.

    Trainer writes its arguments, with `hub_token` among them, to `training_args.bin`, and uploads that file.
    """

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return type(None), ()

    def __repr__(self) -> str:
        return "<HUB_TOKEN>"

    def __copy__(self) -> "SecretToken":
        return self

    def __deepcopy__(self, memo: Any) -> "SecretToken":
        return self


def without_token(text: str, *tokens: str | bool | None) -> str:
    """The text with `<token>` where one of the tokens stood."""
    for token in tokens:
        if isinstance(token, str) and token:
            text = text.replace(str(token), "<token>")
    return text
