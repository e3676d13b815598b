"""Helpers that know nothing of training: text, tables and files."""
