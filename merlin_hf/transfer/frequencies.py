"""How frequent each class is, for a head that only knows where the classes lie."""

from torch import Tensor

from ..heads import LinearHead


def add_class_frequencies(head: LinearHead, counts: Tensor, scale: Tensor | float) -> LinearHead:
    """
    A head whose probabilities take into account how many rows each class has.

    Class means are the Gaussian model of the classes with one spherical covariance and equal frequencies. By Bayes' rule the frequencies
    enter as `log p_c` in the logits; p_c is estimated with a row more for each class (Laplace), as a half of a batch may lack one.

    Args:
        head ([`~merlin_hf.heads.LinearHead`]): with bias `(..., C)`.
        counts (`torch.Tensor` of shape `(..., C)`): rows of each class.
        scale (`float` or `torch.Tensor` of shape `()`): what the head's outputs are multiplied by before a softmax; the
            frequencies are not.
    """
    rows = counts.to(head.bias) + 1.0
    frequencies = rows / rows.sum(-1, keepdim=True)
    return LinearHead(head.weight, head.bias + frequencies.log() / scale, head.info)
