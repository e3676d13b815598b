"""Tokens stay out of files and messages."""

import copy
import pickle
from types import SimpleNamespace

import pytest

from merlin_hf.utils.secret import SecretToken, keep_token_secret, without_any_token, without_token


TOKEN = "hf_NotATokenOfAnybody0123456789"


def test_a_secret_is_the_token_and_leaves_none_behind():
    args = SimpleNamespace(hub_token=TOKEN)
    keep_token_secret(args)
    assert args.hub_token == TOKEN and isinstance(args.hub_token, SecretToken)
    assert pickle.loads(pickle.dumps(args)).hub_token is None and TOKEN not in repr(args)
    assert copy.deepcopy(args).hub_token == TOKEN
    keep_token_secret(SimpleNamespace(hub_token=None))


@pytest.mark.parametrize("kind", ["hf", "api_org", "hf_oauth", "hf_jwt"])
def test_every_form_of_a_token_goes_from_a_text(kind):
    told = without_any_token(f"'--token' got '{kind}_{TOKEN[3:]}', and hf_hub is no token")
    assert told == "'--token' got '<token>', and hf_hub is no token"


def test_tokens_of_the_environment_and_given_ones_go_from_a_text(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my-own-proxy-token")
    assert without_any_token("no my-own-proxy-token") == "no <token>"
    assert without_token("a b", "a", None, True) == "<token> b"
