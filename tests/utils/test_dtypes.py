"""Types of numbers."""

import pytest
import torch

from merlin_hf.utils import dtypes


@pytest.mark.parametrize("seconds, expected", [(0.5, True), (0.9, False), (15.0, False), (float("inf"), False)])
def test_fast_is_clearly_faster_than_float32(monkeypatch, seconds, expected):
    times = {torch.float32: 1.0, torch.bfloat16: seconds}
    monkeypatch.setattr(dtypes, "seconds_of_a_product", lambda dtype, device: times[dtype])
    assert dtypes.bfloat16_is_fast("cpu") is expected


def test_a_product_is_timed():
    small, large = (dtypes.seconds_of_a_product(torch.float64, "cpu", size) for size in (32, 512))
    assert 0 < small < large
    assert dtypes.seconds_of_a_product(torch.bool, "cpu") == float("inf")  # has no product
