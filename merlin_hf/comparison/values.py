"""Other names of [`merlin_hf.utils.validation`]."""

from ..utils.validation import ConfigError, check_fields, check_mapping, did_you_mean, first_sentence


__all__ = ["ConfigError", "check_fields", "check_mapping", "did_you_mean", "first_sentence"]
