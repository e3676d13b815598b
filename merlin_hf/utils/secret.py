"""Keep tokens out of files and messages."""

import os
import re
from typing import Any


# Tokens of the Hub, for users, organizations and OAuth.
TOKEN_FORM = re.compile(r"\b(?:hf|api_org|hf_oauth|hf_jwt|hf_app)_[A-Za-z0-9_\-.]{8,}")
TOKEN_FIELDS = ("hub_token", "push_to_hub_token")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


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


def keep_token_secret(args: Any) -> None:
    """Make the tokens in training arguments [`SecretToken`]s, as Trainer writes and uploads its arguments."""
    for name in TOKEN_FIELDS:
        token = getattr(args, name, None)
        if isinstance(token, str) and not isinstance(token, SecretToken):
            setattr(args, name, SecretToken(token))


def without_any_token(text: str) -> str:
    """Return the text with `<token>` for everything that has the form of a token, and for those in the environment."""
    return TOKEN_FORM.sub("<token>", without_token(text, *map(os.environ.get, TOKEN_VARIABLES)))


def without_token(text: str, *tokens: str | bool | None) -> str:
    """Return the text with `<token>` where one of the tokens stood."""
    for token in tokens:
        if isinstance(token, str) and token:
            text = text.replace(str(token), "<token>")
    return text
