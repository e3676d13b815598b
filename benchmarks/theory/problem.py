"""
The two tasks: labels that two products of coordinates explain on the source, and only one of them on the target.

A quadratic network is its form `Q` `(d, d)`, f(x) = x^T Q x, and on inputs whose coordinates are plus or minus a
constant the error of a form over a whole distribution is a sum over its entries. So the source is never sampled, and
the test error has no noise of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


MOST_ROWS = 4096  # a seed's target rows are the first of these, so that more rows contain fewer


@dataclass(frozen=True)
class Problem:
    """
    Inputs `x = (e_1, e_2, s e_3, s e_4, e_5, ...)` with signs e.

    On the target the signs are independent and fair; on the source `e_4 = e_1 e_2 e_3`. Labels are `y = e_1 e_2` on
    both, so that on the source, and there alone, `y = e_3 e_4` too.

    Args:
        dimension: how many coordinates, at least 4.
        ease: s, how large the coordinates of the source-specific product are. At 1 the two products are alike; above
            it the source-specific one needs weights smaller by s^2.
        noise: standard deviation of what is added to the labels of the target's rows. All errors are those in
        `e_1 e_2`.
    """

    dimension: int = 20
    ease: float = 1.0
    noise: float = 0.0

    def scales(self, like: Tensor | None = None) -> Tensor:
        """The size `(d,)` of every coordinate."""
        scales = torch.ones(self.dimension) if like is None else like.new_ones(self.dimension)
        scales[2:4] = self.ease
        return scales

    def target_rows(self, rows: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs `(rows, d)` and labels `(rows,)`."""
        inputs, labels = self._rows(rows, seed, source=False)
        noise = torch.randn(MOST_ROWS, generator=torch.Generator().manual_seed(30_000 + seed))[:rows]
        return inputs, labels + self.noise * noise

    def source_rows(self, rows: int, seed: int) -> tuple[Tensor, Tensor]:
        """The same of the source; only the tests draw them."""
        return self._rows(rows, seed, source=True)

    def _rows(self, rows: int, seed: int, source: bool) -> tuple[Tensor, Tensor]:
        if rows > MOST_ROWS:
            raise ValueError(f"A seed has {MOST_ROWS} rows, {rows} were asked for.")
        generator = torch.Generator().manual_seed(seed)
        signs = 2.0 * torch.randint(2, (MOST_ROWS, self.dimension), generator=generator)[:rows] - 1
        if source:
            signs[:, 3] = signs[:, :3].prod(1)
        return signs * self.scales(), signs[:, 0] * signs[:, 1]

    def coefficients(self, form: Tensor) -> Tensor:
        """
        What a form is as a polynomial in the signs.

        Returns:
            `(..., d, d)`: the coefficient of `e_i e_j` above the diagonal, the constant in the first entry of the
            diagonal, and zeros elsewhere.
        """
        scales = self.scales(form)
        scaled = form * scales * scales[:, None]
        constant = torch.diagonal(scaled, dim1=-2, dim2=-1).sum(-1)
        found = 2 * scaled.triu(1)
        return found + torch.nn.functional.pad(
            constant[..., None, None], (0, self.dimension - 1, 0, self.dimension - 1)
        )

    def _residual(self, form: Tensor) -> Tensor:
        """Coefficients `(..., d, d)` of `f(x) - y`."""
        truth = form.new_zeros(self.dimension, self.dimension)
        truth[0, 1] = 1
        return self.coefficients(form) - truth

    def target_error(self, form: Tensor) -> Tensor:
        """Return the mean squared error `(...)` over all target inputs; products are uncorrelated, f = 0 has 1."""
        return self._residual(form).square().sum((-2, -1))

    def source_error(self, form: Tensor) -> Tensor:
        """Mean squared error `(...)` over all source inputs, where three pairs of products are the same function."""
        c = self._residual(form)
        same = c[..., 0, 1] * c[..., 2, 3] + c[..., 0, 2] * c[..., 1, 3] + c[..., 0, 3] * c[..., 1, 2]
        return c.square().sum((-2, -1)) + 2 * same

    def composition(self, form: Tensor) -> dict[str, Tensor]:
        """
        Where a form lies: the coefficients of the two products, and the root of the sum of squares of all others.

        The target's true model has 1, 0, 0. On the source the first two need only sum to 1.
        """
        c = self.coefficients(form)
        transferable, specific = c[..., 0, 1], c[..., 2, 3]
        rest = c.square().sum((-2, -1)) - transferable.square() - specific.square()
        return {"transferable": transferable, "specific": specific, "rest": rest.clamp(min=0).sqrt()}
