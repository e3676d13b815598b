"""Errors of the Hub say what would work, and repeat no token."""

import traceback

import pytest

from merlin_hf.hub.errors import PublishError, explained, reason
from tests.hub.conftest import TOKEN, holds


def test_an_error_of_the_network_is_not_taken_for_one_of_the_folder():
    said = reason(OSError("Network error: HTTP status client error (404 Not Found)"), "user/model")
    assert "HF_HUB_DISABLE_XET=1" in said and "folder" not in said
    assert "Give a folder that can be read and written" in reason(
        PermissionError(13, "Permission denied", "model"), None
    )


def test_an_error_that_repeats_the_token_is_shown_without_it():
    with (
        pytest.raises(PublishError, match="no route for <token>") as failed,
        explained("out", "ada/films", None, TOKEN),
    ):
        raise OSError(f"no route for {TOKEN}")
    assert not holds("".join(traceback.format_exception(failed.value)), TOKEN)
