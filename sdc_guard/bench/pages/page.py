"""The results page: Markdown and figures from a benchmark's document, and from nothing else."""

from __future__ import annotations

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.detectors.table import DETECTORS
from sdc_guard.bench.pages.checklist import checklist
from sdc_guard.bench.pages.detail import cost_table, detector_folds, matrix
from sdc_guard.bench.pages.figures import DELAY, FRONTIERS, SIZE_BARS, figures
from sdc_guard.bench.pages.harm import harm_by_detector, harm_by_fault, noise_lines
from sdc_guard.bench.pages.names import NOT_MEASURED, detectors, label
from sdc_guard.bench.pages.summary import first_table, outcome_table
from sdc_guard.bench.pages.tally import num_distinct, on_device
from sdc_guard.bench.pages.text import code, table
from sdc_guard.bench.results import Stamp
from sdc_guard.inject import MODELS

PAGE = "README.md"
CUDA_PREFIX = "cuda-"

READING = """\
- *found*: an accusation of corruption that names the struck operator, or any accusation from a \
detector that names none. Softer words are counted apart, below.
- *ours, 2 %*: the guard with 2 % of the run time to spend; *exhaustive*: it checks every call.
- *one-off transient*: one result is wrong once. *Repeated*: the same place goes wrong again and \
again. *Deterministic*: a kernel is wrong for some data or in some place, every time.
- *cost*: time of watched over time of plain steps, totals of runs in turn in one process; over \
all workloads it is the geometric mean.
- *[a, b]*: 95 % interval (shares: Clopper and Pearson); *n*: number of faults (for \
costs, of workloads and dtypes). Where *n* differs, a detector has not met all faults; the \
comparisons below are on the faults that both met.
"""
UNDER_THE_TABLE = """\
A one-off transient is seen about as often as the share of work that is checked, so a small budget \
misses most of them. Repeated and deterministic faults come back, and are found some steps later. \
Shares are measured as in a run that has been under way for long; at its start a share pays for \
learning its sites first. A step of most workloads here takes about 7 ms (of the demo GPT 170 ms), \
and one check costs more than a hundredth of that: a share of so short a step pays for few checks.
"""
CAUSES = """\
**Wrong cause**: a named cause that is neither the fault's own nor `unknown`, among all named. \
Right are: `transient` for one-off transients; `software` for deterministic faults; `persistent \
hardware` or `software` for repeated ones, and `transient` too for rare flips. An injected fault \
replaces a kernel in the whole process: unless it is bound to a core it is in force on every core, \
and a call that is wrong on every core is called `software`. Faults in state, batches and the \
checker have no right cause here and do not count.
"""
OUTCOMES_TEXT = """\
`firm`: found. `soft`: a softer word that names the operator. `elsewhere`: only other operators \
were named. `loud`: the step ended with an exception and no alarm. Faults that changed no bit \
(`without effect`) are not counted as injected. State, data and checker: faults in parameters, \
gradients or optimizer state between steps, in batches, and in the detector's own work. Of checker \
faults `firm` is no find: it accuses the result in use, which is right, so few are good there. \
Step replay and debug-mode hashes train on with the repeat, so theirs is the result in use that \
was struck.
"""


def render_page(file: BenchFile) -> dict[str, str]:
    """Text by file name: ``README.md`` and the figures that it shows."""
    cpu, cuda = on_device(file, "cpu"), on_device(file, "cuda")
    made = figures(cpu)
    made |= {CUDA_PREFIX + name: svg for name, svg in figures(cuda).items()}
    num = sum(c.injected for c in file.cells)
    parts = [
        "# The same faults, every detector",
        f"Faults are injected into training steps while a detector watches. {num} were injected "
        f"({num_distinct(file.cells)} different ones; each meets several detectors). **All "
        "faults are injected: no faulty device was available to us**, and each figure holds for "
        "the fault models that it names. This page is made from [bench.json](bench.json) by "
        "`sdc-guard bench page`; [how and where](#how) it was measured is at its end.",
        READING.strip(), "## What is found, and what it costs (CPU)", first_table(cpu),
        UNDER_THE_TABLE.strip(), *(_image(made, name) for name, _ in FRONTIERS.values()),
        _image(made, DELAY), CAUSES.strip(),
        "## What ours must show (CPU, every call checked)", checklist(cpu),
        "## By size", *(_image(made, name) for name in SIZE_BARS),
        "## By fault model, operator class, size and dtype (CPU)",
        "A percentage is the share found. An empty cell: no fault fell there.",
        detector_folds(cpu),
        "## Harm", *_harm(file),
        "## CUDA", first_table(cuda), *_cuda_details(cuda, made),
        "## How trials ended (CPU)", OUTCOMES_TEXT.strip(), outcome_table(cpu),
        "## Cost (CPU)", cost_table(cpu),
        "## Fault models and detectors", _models(), _detectors(),
        "## What was measured", matrix(file), "## How", *(_told(s) for s in file.stamps),
    ]
    return {PAGE: "\n\n".join(part for part in parts if part) + "\n", **made}


def _image(made: dict[str, str], name: str) -> str:
    if name not in made:
        return f"{name}: {NOT_MEASURED}."
    title = made[name].partition("<title>")[2].partition("</title>")[0]
    return f"![{title}]({name})"


def _models() -> str:
    return table(["fault model", "kind", "what it does"],
                 [[m.name, m.kind, m.description] for m in MODELS.values()], left=range(3))


def _detectors() -> str:
    """What each detector does, and whether the numbers of the training change while it watches."""
    rows = []
    for name in detectors(()):
        made = DETECTORS[name]()
        rows.append([label(name), made.description, made.changes_training or "no"])
    return table(["detector", "what it does", "changes the training"], rows, left=range(3))


def _cuda_details(cuda: BenchFile, made: dict[str, str]) -> list[str]:
    if not (cuda.cells or cuda.clean or cuda.costs):
        return [f"What ours must show, on CUDA: {NOT_MEASURED}."]
    images = [_image(made, name) for name in made if name.startswith(CUDA_PREFIX)]
    return [*images, checklist(cuda), detector_folds(cuda), cost_table(cuda)]


def _harm(file: BenchFile) -> list[str]:
    if not file.harms:
        return [f"Harm of faults: {NOT_MEASURED}."]
    return [
        "The same faults in a training that nobody watched. A fault is *harmful* if it moved the "
        "held-out loss by more than noise does, or made it no number:",
        "\n".join(noise_lines(file)), harm_by_fault(file),
        "Harmful faults that a detector met and did not find:", harm_by_detector(file)]


def _told(stamp: Stamp) -> str:
    devices = f", {', '.join(stamp.devices)}" if stamp.devices else ""
    return "\n".join([
        f"- machine: {stamp.platform}, {stamp.processor}, {stamp.num_cores} cores, "
        f"{stamp.instruction_set}{devices}; highest load {stamp.load:.1f}",
        f"- versions: Python {stamp.python}, torch {stamp.torch}, numpy {stamp.numpy}",
        f"- seed {stamp.seed}; commits {', '.join(stamp.commits)} (`+`: with local changes)",
        *(f"- command: {code(command)}" for command in stamp.commands)])
