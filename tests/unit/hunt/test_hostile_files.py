"""Whoever writes a file that a hunt reads does not choose what is called, run or written."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import msgspec
import pytest
import torch

from sdc_guard.errors import UsageError
from sdc_guard.hunt import catalogue, targets
from sdc_guard.hunt.catalogue import Catalogue, read_catalogue, version_here
from sdc_guard.hunt.corpus import MAX_ROUNDS, Corpus, Key, of_hunt
from sdc_guard.hunt.findings import write_findings
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.hunting import Hunt, Plan
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.materialise import materialise
from sdc_guard.hunt.messages import Again, MadeAgain, Options, Reduce
from sdc_guard.hunt.targets import is_known, resolve
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Scalar, Trial, scalar, value_of
from sdc_guard.ops import all_specs
from tests.unit.hunt.made_hunt import SUM, made_found, made_ledger, made_trial

KEY = Key(seed=1, torch="2.13.0", oracles=("bound",), max_bytes=1 << 20)
REFUSED = (
    "os.system", "subprocess.run", "builtins.eval", "builtins.exec", "pickle.loads",
    "shutil.rmtree", "importlib.import_module", "sys.exit", "antigravity.webbrowser.open",
    "pathlib.Path.unlink",
    "torch.load", "torch.save", "torch.from_file", "torch.compile", "torch.hub.load",
    "torch.jit.load", "torch.package.PackageImporter", "torch.serialization.load",
    "torch.utils.cpp_extension.load", "torch.library.Library", "torch.ops.load_library",
    "torch.classes.load_library", "torch.set_default_dtype", "torch.manual_seed",
    "torch.os.system", "torch.sys.exit", "torch.importlib.import_module", "torch.Tensor",
    "torch.nn.functional.torch.load", "torch.nn.functional.importlib",
    "torch.nn.functional.warnings",
    "torch.nn.functional.handle_torch_function", "torch.masked.os", "torch.linalg.torch.load",
    "torch.Tensor.__reduce_ex__", "torch.Tensor.__setstate__", "torch.Tensor.__class__",
    "torch.Tensor.__init_subclass__", "torch.nn.Module", "torch.distributed.init_process_group",
    "aten.from_file.default", "aten.from_file.out", "aten.save.default", "aten.warn.default",
    "prim.Print.default", "c10d.barrier.default", "os.path.exists", "a.b.c", "", ".", "torch.",
    "torch..load", "torch.sum.__call__", "torch.sum.__self__", "aten.sum.default\n", "x" * 100_000,
)


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: ascii(name)[:40])
def test_a_file_cannot_name_what_is_no_operator(name: str) -> None:
    with pytest.raises(UsageError, match="no operator and no function"):
        resolve(name)


@pytest.mark.parametrize("name", [
    "torch.sum", "torch.einsum", "torch.arange", "torch.Tensor.add_", "torch.Tensor.__radd__",
    "torch.Tensor.new_full", "torch.nn.functional.gelu", "torch.nn.functional.max_pool2d",
    "torch.nn.functional.hardswish", "torch.linalg.svd", "torch.fft.rfft", "torch.special.i0",
    "torch.masked.softmax", "torch.signal.windows.hann", "torch._segment_reduce",
    "aten.sum.dim_IntList", "aten._foreach_add.List",
])
def test_functions_on_tensors_are_known(name: str) -> None:
    assert callable(resolve(name))


def test_every_operator_of_the_table_is_known() -> None:
    missing = []
    for spec in all_specs():
        namespace, base = spec.packet.split(".")
        packet = getattr(getattr(torch.ops, namespace), base, None)
        if packet is not None:
            missing += [f"{spec.packet}.{o}" for o in packet.overloads()
                        if "-> Tensor" in str(getattr(packet, o)._schema)
                        and not is_known(f"{spec.packet}.{o}")]
    assert not missing


def test_a_function_of_the_users_own_is_called_once_its_name_was_typed(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "_typed", set())
    name = "tests.unit.hunt.made_hunt.made_trial"
    assert not is_known(name)
    targets.allow("tests.unit.hunt.made_hunt")
    assert not is_known(name), "the very name, not one in front of it"
    targets.allow(name)
    assert resolve(name) is made_trial
    resolve.cache_clear()


def _evil(marker: Path) -> Trial:
    return Trial(target="os.system", args=(scalar(f"touch {marker}"),))


def test_a_catalogue_that_names_something_else_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "was-here"
    evil = Template(name="torch.add", source="catalogue", trial=_evil(marker))
    file = tmp_path / f"catalogue-{catalogue.FORMAT}-torch-{torch.__version__}.json"
    file.write_bytes(msgspec.json.encode(Catalogue(
        version=version_here(), num_entries=1, templates=(evil,), skipped={})))
    monkeypatch.setattr(catalogue, "_written_by_child", lambda path: "made again")
    assert read_catalogue(tmp_path) == (None, "made again")
    assert "os.system" not in load_templates(tmp_path, ops=("*exp*",)).by_target
    assert not marker.exists()


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("{"), lambda path: path.mkdir(), lambda path: path.write_text(""),
    lambda path: path.symlink_to("/dev/null"),
])
def test_a_damaged_catalogue_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object
) -> None:
    make(tmp_path / f"catalogue-{catalogue.FORMAT}-torch-{torch.__version__}.json")  # type: ignore[operator]
    monkeypatch.setattr(catalogue, "_written_by_child", lambda path: "made again")
    assert read_catalogue(tmp_path) == (None, "made again")


def test_a_catalogue_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found, why = read_catalogue(tmp_path / "file" / "catalogue")
    assert found is None
    assert "cannot be kept" in why


def test_a_trace_that_names_something_else_is_told(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"kind": "call", "op": "os.system.default", "args": ["touch x"]}\n')
    with pytest.raises(UsageError):
        load_templates(tmp_path, traces=(trace,))


@pytest.mark.parametrize("item", [
    Scalar(kind="dtype", text="load"), Scalar(kind="layout", text="save"),
    Scalar(kind="memory_format", text="hub"), Scalar(kind="pickle", text="x")])
def test_an_argument_is_what_its_kind_says(item: Scalar) -> None:
    with pytest.raises(UsageError, match="kind"):
        value_of(item)


def test_the_dtype_of_an_operand_is_a_dtype() -> None:
    trial = made_trial().mapped(lambda _, o: msgspec.structs.replace(o, dtype="load"))
    with pytest.raises(UsageError, match="dtype 'load'"):
        materialise(trial)


def _kept(folder: Path, **changes: object) -> Corpus:
    """A corpus with one finding, parts of which are replaced in the file."""
    corpus = Corpus(folder)
    corpus.save_found(made_ledger(made_found()))
    path = folder / "found.json"
    value = json.loads(path.read_text())
    (one,) = value["found"].values()
    one.update(changes)
    value["found"] = {str(changes.get("seen_as", one["seen_as"])): one}
    path.write_text(json.dumps(value))
    return corpus


@pytest.mark.parametrize("changes", [
    {"fingerprint": "../../evil"}, {"fingerprint": "/tmp/evil"}, {"fingerprint": ""},
    {"seen_as": "../evil"}, {"word": "no such word"}, {"fingerprint": "0" * 15 + "\n"},
])
def test_a_finding_with_the_name_of_another_file_is_set_aside(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    corpus = _kept(tmp_path, **changes)
    assert corpus.load_found() == {}
    assert "found.json.damaged-0" in corpus.notes[0]


def test_scripts_and_tests_of_a_corpus_are_not_handed_on(tmp_path: Path) -> None:
    evil = "import os; os.system('echo evil')"
    corpus = _kept(tmp_path, script=evil, regression_test=evil, issue=evil, script_shows="wrong")
    (one,) = corpus.load_found().values()
    files = write_findings(tmp_path / "out", [one])
    assert files
    assert not any(f.suffix == ".py" for f in files)
    assert not any("evil" in f.read_text() for f in files)


def test_a_finding_whose_smaller_trial_calls_something_else_is_left_out(tmp_path: Path) -> None:
    found = msgspec.structs.replace(made_found(), trial=_evil(tmp_path / "x"))
    assert not of_hunt({found.seen_as: found}, [SUM], ["bound"])


def _hunt(folder: Path, *found: FoundDivergence) -> Hunt:
    templates = {SUM: (Template(name="aten.sum", source="test", trial=made_trial()),)}
    return Hunt(Plan(options=Options(oracles=("bound",)), limit_s=1.0), templates,
                made_ledger(*found), folder)


def test_what_is_still_there_is_written_up_anew_from_its_smallest_trial(tmp_path: Path) -> None:
    drawn = made_trial(value=3.0)
    found = msgspec.structs.replace(made_found(seen_as="a" * 16), drawn=drawn)
    hunt = _hunt(tmp_path, found)
    hunt.write_anew((found.seen_as,))
    task = hunt._reduce()
    assert isinstance(task, Reduce)
    assert (task.kind, task.seen_as) == (found.fingerprint, found.seen_as)
    assert task.trial != task.drawn
    crash = made_found("crash", "process", seen_as="b" * 16)
    hunt = _hunt(tmp_path, crash)
    hunt.write_anew((crash.seen_as,))
    assert "torch.ops.aten.sum.default(" in hunt.ledger.found[crash.seen_as].script
    assert hunt._reduce() is None, "a crash is not made again to be written up"


def test_two_divergences_of_one_drawn_trial_are_each_made_again(tmp_path: Path) -> None:
    gone, there = made_found(seen_as="a" * 16), made_found("precision", seen_as="b" * 16)
    assert gone.drawn == there.drawn
    hunt = _hunt(tmp_path, gone, there)
    hunt.replay(iter((gone.seen_as, there.seen_as)))
    for kind, wrong in ((gone.seen_as, 0), (there.seen_as, 3)):
        task = hunt._next()
        assert isinstance(task, Again)
        assert task.kind == kind
        hunt._take(task, MadeAgain(wrong=wrong, tried=3))
    assert (set(hunt.ledger.gone), hunt.ledger.still_there) == ({"a" * 16}, ["b" * 16])


def test_a_worker_asked_for_an_oracle_that_it_lacks_says_so(tmp_path: Path) -> None:
    from multiprocessing import Pipe

    from sdc_guard.hunt.messages import unpacked
    from sdc_guard.hunt.worker import Worker

    ours, theirs = Pipe()
    worker = Worker(theirs, Options(oracles=("bound",), slot=str(tmp_path / "slot")))
    worker.reduce(Reduce(trial="{}", kind="a" * 16, oracle="crystal ball"))
    answer = unpacked(ours.recv_bytes())
    assert isinstance(answer, MadeAgain)
    assert "StopIteration" in answer.error
    worker.again(Again(trial=msgspec.json.encode(_evil(tmp_path / "x")).decode(), kind="a"))
    answer = unpacked(ours.recv_bytes())
    assert isinstance(answer, MadeAgain)
    assert "names no operator" in answer.error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("rounds", [-1, MAX_ROUNDS + 1, 10**18])
def test_a_state_with_rounds_that_no_hunt_makes_is_set_aside(tmp_path: Path, rounds: int) -> None:
    ledger = made_ledger()
    ledger.of(SUM).rounds = rounds
    corpus = Corpus(tmp_path)
    corpus.save_state(KEY, ledger, is_finished=False)
    assert corpus.load_state(KEY) is None
    assert corpus.notes


def test_a_hunt_ends_where_all_targets_are_given_up(tmp_path: Path) -> None:
    hunt = _hunt(tmp_path)
    hunt.plan = dataclasses.replace(hunt.plan, limit_s=1e9)
    hunt.ledger.of(SUM).given_up = "given up"
    assert hunt._next_round() is None


def test_a_folder_in_place_of_a_file_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "found.json").mkdir()
    with pytest.raises(UsageError, match=r"cannot be read.*move it away"):
        Corpus(tmp_path).load_found()
    assert (tmp_path / "found.json").is_dir()


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state.json")
    with pytest.raises(UsageError, match="no file"):
        Corpus(tmp_path).load_state(KEY)


def test_an_enormous_file_is_set_aside_unread(tmp_path: Path) -> None:
    with (tmp_path / "found.json").open("wb") as file:
        file.truncate(1 << 40)
    corpus = Corpus(tmp_path)
    assert corpus.load_found() == {}
    assert "the limit is" in corpus.notes[0]
    assert (tmp_path / "found.json.damaged-0").stat().st_size == 1 << 40


def test_a_full_disk_costs_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus(tmp_path)
    corpus.save_state(KEY, Ledger(), is_finished=False)
    before = (tmp_path / "state.json").read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sdc_guard.hunt.corpus.write_whole", full)
    for _ in range(2):
        corpus.try_save(lambda: corpus.save_state(KEY, made_ledger(), is_finished=True))
    (note,) = corpus.notes
    assert "No space left" in note
    assert (tmp_path / "state.json").read_bytes() == before
