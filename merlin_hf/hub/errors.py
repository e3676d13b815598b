"""Say what went wrong at the Hub, and what would work."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from ..utils.secret import without_token


# `HTTPError` is raised for the answers of a server or for none, `RuntimeError` around a failed upload, `ValueError`
# for a card, a token or a name that cannot be, `OSError` for files that cannot be read or written.
HUB_ERRORS = (HTTPError, OSError, RuntimeError, ValueError)
TOKENS = "https://huggingface.co/settings/tokens"


class PublishError(OSError):
    """A model did not get to the Hub. The message says what would work. The model on disk is as it was."""


@contextmanager
def explained(folder: str, repo_id: str | None, *tokens: str | bool | None) -> Iterator[None]:
    """Turn errors of an upload of `folder` into [`PublishError`]s, whose messages repeat none of the tokens."""
    try:
        yield
    except PublishError:
        raise
    except HUB_ERRORS as error:
        message = f"The model did not get to {repo_id or 'the Hub'}: {reason(error, repo_id)}"
        if repo_id is not None:
            command = shlex.join(["merlin-hf", "publish", str(folder), repo_id])
            message += f" Nothing was lost here; `{command}` sends what is in that folder."
        # Where an error repeats the token, it is not shown as the cause either.
        is_clean = without_token(repr(error), *tokens) == repr(error)
        raise PublishError(without_token(message, *tokens)) from (error if is_clean else None)


def reason(error: BaseException, repo_id: str | None) -> str:
    """Return the meaning of an error, and a remedy."""
    causes = _with_causes(error)
    where = repo_id or "the repository"
    answered = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return "HF_HUB_OFFLINE is set; unset it."
    if any(isinstance(cause, HFValidationError) for cause in causes):
        return f"{_first_line(error)} Name it like `user/name`."
    if any(isinstance(cause, LocalTokenNotFoundError) for cause in causes):
        return f"there is no token. {_how_to_log_in()}"
    if "Invalid metadata" in str(error):
        details = " ".join(str(error).split())
        return f"{details} Correct the lines between the two `---` in README.md."
    if answered is not None:
        return _reason_of_status(answered, where)
    if any(isinstance(cause, HTTPError) for cause in causes):
        return (
            f"the connection failed ({_first_line(causes[-1]) or type(causes[-1]).__name__}). Try again; files that "
            "the Hub has are not sent again."
        )
    if isinstance(error, OSError) and error.errno is None:  # of Xet, which sends weights, not of a file
        return (
            f"{error}. Try again; with the environment variable HF_HUB_DISABLE_XET=1, files are sent in the other way."
        )
    if isinstance(error, OSError):
        return f"{error}. Give a folder that can be read and written, or move this one."
    return f"{error}"


def _reason_of_status(error: HfHubHTTPError, where: str) -> str:
    """Return the meaning of the status of a server's answer, and a remedy."""
    status = error.response.status_code
    said = error.server_message or error.response.headers.get("X-Error-Message") or ""
    said = f" ({' '.join(said.split())[:200]})" if said else ""
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"the Hub does not know this token{said}. {_how_to_log_in()}"
    if status in (401, 404):
        return (
            f"the Hub has no {where} for this token{said}. Check its name; where it is somebody else's or private, "
            f"use a token that may write to it ({TOKENS})."
        )
    if status == 403:
        return (
            f"this token may not write to {where}{said}. Use one with the role `write` ({TOKENS}), or a repository "
            "under your own name."
        )
    if status == 409:
        return f"{where} was changed at the same time or is taken{said}. Try again, or give another name."
    if status in (413, 507) or "storage" in said:
        return f"the Hub has no room for it{said}."
    return f"the Hub answered {status}{said}. Try again; files that the Hub has are not sent again."


def _how_to_log_in() -> str:
    return f"Get one with the role `write` at {TOKENS}, then `hf auth login`, or set HF_TOKEN to it."


def _with_causes(error: BaseException) -> list[BaseException]:
    """Return an error and the errors that it was raised from."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    return causes


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
