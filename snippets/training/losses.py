"""Losses written out: what torch.nn.functional computes, and its checks.

Shapes: n samples, C classes. Logits are raw outputs, any real numbers.
Page: training/losses. Source: the formulas on the API pages of
CrossEntropyLoss, BCEWithLogitsLoss and HuberLoss,
https://docs.pytorch.org/docs/stable/nn.html#loss-functions
"""

# --8<-- [start:imports]
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:reduce]
def reduce(terms: Tensor, reduction: str, w: Tensor | None = None) -> Tensor:
    """Return the terms, their sum, or their sum over the total weight w.

    Without w, each term counts 1. Raises ValueError for another
    reduction, and for a mean over nothing.
    """
    if reduction == "none":
        return terms
    if reduction == "sum":
        return terms.sum()
    if reduction != "mean":
        raise ValueError(f"expected none, mean or sum, got {reduction}")
    total = terms.numel() if w is None else w.sum()
    if not total > 0:
        raise ValueError(f"expected a total weight > 0, got {total:g}")
    return terms.sum() / total
# --8<-- [end:reduce]


# --8<-- [start:check-labels]
def check_labels(
    scores: Tensor, labels: Tensor, ignore_index: int | None = None
) -> None:
    """Refuse labels (n,) that do not fit scores (n, C).

    Raises ValueError for shape or range, TypeError for a dtype.
    """
    if scores.dim() != 2 or labels.shape != scores.shape[:1]:
        got = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected (n, C) and (n,), got {got}")
    if not scores.is_floating_point() or labels.dtype != torch.int64:
        got = f"{scores.dtype} and {labels.dtype}"
        raise TypeError(f"expected float scores, int64 labels, got {got}")
    top = scores.shape[1] - 1
    wrong = labels[((labels < 0) | (labels > top)) & (labels != ignore_index)]
    if len(wrong):
        raise ValueError(f"expected labels 0..{top}, got {wrong[0].item()}")
# --8<-- [end:check-labels]


# --8<-- [start:nll]
def nll(log_p: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of labels (n,) under log_p (n, C).

    Raises what check_labels and reduce raise, and ValueError unless
    exp(log_p) sums to 1 in each row, to 0.01.
    """
    check_labels(log_p, labels)
    mass = log_p.detach().exp().sum(dim=1)
    wrong = mass[~((mass - 1).abs() < 0.01)]
    if len(wrong):
        raise ValueError(f"expected rows with sum 1, got {wrong[0]:.4g}")
    rows = torch.arange(len(labels), device=labels.device)
    return reduce(-log_p[rows, labels], reduction)
# --8<-- [end:nll]


# --8<-- [start:log-sum-exp]
def log_sum_exp(z: Tensor) -> Tensor:
    """log(sum(exp(z))) over the last dimension: (..., C) to (...).

    Raises TypeError unless z is floating point, ValueError unless finite.
    """
    if not z.is_floating_point():
        raise TypeError(f"expected floating point, got {z.dtype}")
    if not z.isfinite().all():
        raise ValueError("expected finite values, got nan or inf")
    top = z.detach().amax(dim=-1, keepdim=True)  # a constant that cancels
    return (z - top).exp().sum(dim=-1).log() + top.squeeze(-1)
# --8<-- [end:log-sum-exp]


# --8<-- [start:cross-entropy]
def cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None,
    ignore_index: int = -100, label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of logits (n, C) and labels (n,), weight (C,).

    Raises what check_labels, log_sum_exp and reduce raise, and ValueError
    for weights or smoothing out of range.
    """
    check_labels(logits, labels, ignore_index)
    classes = logits.shape[1]
    weight = logits.new_ones(classes) if weight is None else weight
    if weight.shape != (classes,) or not (weight >= 0).all():
        raise ValueError(f"expected {classes} weights ≥ 0, got {weight}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"expected smoothing 0..1, got {label_smoothing}")
    kept = labels != ignore_index
    label = labels.where(kept, 0)  # any class: these rows count 0
    target = F.one_hot(label, classes).to(logits)
    target = (1 - label_smoothing) * target + label_smoothing / classes
    log_p = logits - log_sum_exp(logits).unsqueeze(1)
    terms = -(weight * target * log_p).sum(dim=1) * kept
    return reduce(terms, reduction, weight[label] * kept)
# --8<-- [end:cross-entropy]


# --8<-- [start:check-pair]
def check_pair(prediction: Tensor, target: Tensor) -> None:
    """Refuse two tensors that differ in shape or dtype, or are not finite.

    Raises ValueError for shapes and values, TypeError for dtypes.
    """
    if prediction.shape != target.shape:
        got = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise ValueError(f"expected equal shapes, got {got}")
    if not prediction.is_floating_point() or prediction.dtype != target.dtype:
        got = f"{prediction.dtype} and {target.dtype}"
        raise TypeError(f"expected one float dtype, got {got}")
    if not (prediction.isfinite().all() and target.isfinite().all()):
        raise ValueError("expected finite values, got nan or inf")
# --8<-- [end:check-pair]


# --8<-- [start:bce]
def bce_with_logits(
    logits: Tensor, target: Tensor, pos_weight: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross-entropy of logits and targets in 0..1, of any shape.

    Raises what check_pair and reduce raise, and ValueError for a target or
    pos_weight out of range.
    """
    check_pair(logits, target)
    if not ((target >= 0) & (target <= 1)).all():
        got = f"{target.min():g}..{target.max():g}"
        raise ValueError(f"expected targets in 0..1, got {got}")
    if not 0 < pos_weight < math.inf:
        raise ValueError(f"expected 0 < pos_weight < inf, got {pos_weight}")
    zero = torch.zeros_like(logits)
    yes = torch.logaddexp(zero, -logits)  # -log p
    no = torch.logaddexp(zero, logits)  # -log (1 - p)
    return reduce(pos_weight * target * yes + (1 - target) * no, reduction)
# --8<-- [end:bce]


# --8<-- [start:reliability]
def reliability(
    p: Tensor, outcome: Tensor, bins: int = 10
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of p, share of ones and count in each bin that is not empty.

    p (n,) lies in 0..1; outcome (n,) holds 0 and 1 in the dtype of p.
    Raises what check_pair raises, and ValueError for other values or no
    bins. Source: https://arxiv.org/abs/1706.04599
    """
    check_pair(p, outcome)
    if not ((p >= 0) & (p <= 1) & (outcome * (1 - outcome) == 0)).all():
        raise ValueError("expected p in 0..1 and outcomes 0 or 1")
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    index = (p * bins).long().clamp(max=bins - 1)  # p = 1: the last bin
    count = index.bincount(minlength=bins)
    sums = [index.bincount(v, minlength=bins) for v in (p, outcome)]
    used = count > 0
    mean, share = (s[used] / count[used] for s in sums)
    return mean, share, count[used]
# --8<-- [end:reliability]


# --8<-- [start:huber]
def huber(
    prediction: Tensor, target: Tensor, delta: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Squared error up to delta, straight lines beyond, of any shape.

    Raises what check_pair and reduce raise, and ValueError unless delta > 0.
    """
    check_pair(prediction, target)
    if not delta > 0:
        raise ValueError(f"expected delta > 0, got {delta}")
    error = (prediction - target).abs()
    line = delta * (error - delta / 2)
    return reduce((error**2 / 2).where(error <= delta, line), reduction)
# --8<-- [end:huber]


def main() -> None:
    """Print each loss beside the library's."""
    torch.manual_seed(0)
    z, y = 100 * torch.randn(64, 3), torch.randint(3, (64,))
    a, b, bits = z[:, 0], z[:, 1], y.clamp(max=1).to(z)
    extra = {"weight": torch.tensor([1.0, 2.0, 5.0]), "ignore_index": 1, "label_smoothing": 0.1}
    print(f"cross-entropy {nll(z.log_softmax(1), y):.3f} {F.cross_entropy(z, y):.3f}")
    print(f"with options  {cross_entropy(z, y, **extra):.3f} {F.cross_entropy(z, y, **extra):.3f}")
    print(f"binary        {bce_with_logits(a, bits):.3f} {F.binary_cross_entropy_with_logits(a, bits):.3f}")
    print(f"huber         {huber(a, b, 9.0):.3f} {F.huber_loss(a, b, delta=9.0):.3f}")


if __name__ == "__main__":
    main()
