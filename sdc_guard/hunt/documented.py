"""What torch documents about results that differ, each with a link.

An entry changes the word of a divergence and adds the link; it hides none, and it widens no bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.trial import Trial

_DOCS = "https://docs.pytorch.org/docs/stable/"
DETERMINISM = _DOCS + "generated/torch.use_deterministic_algorithms.html"
ACCURACY = _DOCS + "notes/numerical_accuracy.html"
RANDOMNESS = _DOCS + "notes/randomness.html"
SVD = _DOCS + "generated/torch.linalg.svd.html"
EIGH = _DOCS + "generated/torch.linalg.eigh.html"
EIG = _DOCS + "generated/torch.linalg.eig.html"
MEDIAN = _DOCS + "generated/torch.median.html"
SCATTER = _DOCS + "generated/torch.Tensor.scatter_.html"
EXPAND = _DOCS + "generated/torch.Tensor.expand.html"


@dataclass(frozen=True, slots=True)
class Entry:
    """``op`` (a packet or a Python path), ``oracle`` and ``dtype_class`` are globs; ``words`` those
    that it applies to, ``word`` what it makes of them; ``when`` a condition on the trial."""

    op: str
    words: tuple[str, ...]
    word: str
    link: str
    note: str
    oracle: str = "*"
    dtype_class: str = "*"
    when: Callable[[Trial], bool] = lambda trial: True


def _on_cuda(trial: Trial) -> bool:
    return trial.device.startswith("cuda")


def _writes_shared(trial: Trial) -> bool:
    """An in-place call on an operand whose elements share memory."""
    first = next(iter(trial.operands()), None)
    name = trial.target.split(".")[1 if trial.target.count(".") == 2 else -1]
    return (first is not None and name.endswith("_")
            and first.layout.kind in ("expanded", "overlapping"))


_DIFFERS = ("nondeterminism", "inconclusive")

ENTRIES: tuple[Entry, ...] = (
    *(Entry(op, ("nondeterminism",), "documented", DETERMINISM,
            "named as nondeterministic on CUDA", when=_on_cuda)
      for op in ("aten.index_add", "aten.scatter_add", "aten.bincount", "aten.histc",
                 "aten.kthvalue", "aten.median", "aten.cumsum", "aten.put", "aten.index_put",
                 "aten.*pad?d_backward", "aten.upsample_*_backward", "aten.*max_pool*_backward",
                 "aten.grid_sampler_*_backward",
                 "aten.*avg_pool*_backward", "aten._ctc_loss_backward", "aten._cdist_backward",
                 "aten.*embedding_bag*_backward")),
    *(Entry(op, ("nondeterminism",), "documented", DETERMINISM,
            "writes in no order where indices repeat")
      for op in ("aten.index_put", "aten._index_put_impl", "aten.put")),
    *(Entry(op, ("nondeterminism",), "documented", SCATTER,
            "one of the values is picked where indices repeat")
      for op in ("aten.scatter", "aten.index_copy")),
    *(Entry(op, _DIFFERS, "documented", link,
            "vectors are not unique, and gradients through equal values are not stable")
      for op, link in (("*linalg_svd*", SVD), ("*linalg.svd*", SVD), ("torch.svd*", SVD),
                       ("*linalg_eigh*", EIGH), ("*linalg.eigh*", EIGH), ("*linalg_eig", EIG),
                       ("*linalg.eig", EIG), ("*pca_lowrank", SVD), ("*svd_lowrank", SVD))),
    *(Entry(op, _DIFFERS, "documented", MEDIAN, "the index of a median is not unique")
      for op in ("aten.median", "aten.nanmedian", "torch.median", "torch.nanmedian")),
    Entry("*", ("corruption", "precision", "inconclusive", "nondeterminism"), "documented", EXPAND,
          "an in-place call on elements that share memory has no defined result",
          when=_writes_shared),
    *(Entry(op, ("inconclusive",), "documented", ACCURACY,
            "solvers and factorizations are not stable on nearly singular or huge operands")
      for op in ("*linalg*", "*cholesky*", "*lstsq*", "*pinverse*", "*matrix_exp*", "*lobpcg*")),
)
"""In order: the first that applies is taken."""


def marked(trial: Trial, divergence: Divergence) -> Divergence:
    """The divergence under its word: ``documented`` with the link where an entry applies."""
    packet = packet_of(divergence.op)
    for entry in ENTRIES:
        if (divergence.word in entry.words and fnmatchcase(packet, entry.op)
                and fnmatchcase(divergence.oracle, entry.oracle)
                and fnmatchcase(divergence.dtype_class, entry.dtype_class) and entry.when(trial)):
            return replace(divergence, word=entry.word, link=entry.link,
                           message=f"{divergence.message} ({entry.note})")
    return divergence
