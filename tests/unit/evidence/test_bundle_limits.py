"""Caps, levels, disks that refuse, damaged and hostile files."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.calls import BoundCall
from sdc_guard.errors import BundleError, UsageError
from sdc_guard.evidence import BundleWriter, read_bundle, replay, without_values
from sdc_guard.evidence.standalone.rebuild import resolve_op
from tests.unit.evidence.calls_to_store import CALLS, aten, bound_call, finding_for, results_of


def mm(rows: int = 4) -> BoundCall:
    return bound_call(aten.mm.default, torch.randn(rows, 8), torch.randn(8, 4))


def write(writer: BundleWriter, call: BoundCall, site: str = "s", **kwargs: Any) -> Any:
    held = results_of(call)
    return writer.write(call, held, held, finding_for(call), site, **kwargs)


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    return Path(write(BundleWriter(tmp_path / "made"), mm()).bundle)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """The bundle with its manifest and members changed, all checksums made right again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    change(manifest, members)
    manifest["members"] = {n: {"sha256": hashlib.sha256(d).hexdigest(), "num_bytes": len(d)}
                           for n, d in members.items()}
    target = path.with_name("changed.sdcz")
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def test_a_site_is_capped_and_the_repeats_are_counted(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path, max_bundles_per_site=2)
    notes = [write(writer, mm(), "one").note for _ in range(4)]
    assert notes[:2] == ["", ""]
    assert notes[2] == notes[3] == "capped: this call site has 2 bundles, limit 2"
    assert write(writer, mm(), "two").bundle
    assert (writer.num_written, writer.num_capped, len(list(tmp_path.iterdir()))) == (3, 2, 3)


def test_the_run_is_capped_by_bytes(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path, max_total_bytes=40_000)
    notes = [write(writer, mm(), str(i)).note for i in range(6)]
    assert notes[0] == ""
    assert notes[-1].startswith("capped: bundles of this run hold")
    assert "limit 40000" in notes[-1]
    assert writer.total_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_a_large_call_is_narrowed_if_that_is_given_else_only_described(tmp_path: Path) -> None:
    large, small = mm(2000), mm(2)
    held = results_of(small)
    writer = BundleWriter(tmp_path, max_bundle_bytes=4000)
    narrowed = write(writer, large, reduced=(small, held, held))
    assert narrowed.note.startswith("reduced: the whole call needs 128128 bytes, limit 4000")
    bundle = read_bundle(narrowed.bundle)
    assert bundle.is_reduced
    assert bundle.call.args[0].shape == (2, 8)
    assert replay(bundle, num_runs=1).reproduces == "held"

    plain = write(writer, large)
    assert plain.note == "stats only: the whole call needs 128128 bytes, limit 4000"
    assert not read_bundle(plain.bundle).has_call
    still = write(writer, large, reduced=(mm(1000), held, held))
    assert "narrowed it still needs" in still.note
    assert not read_bundle(still.bundle).has_call
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 150_000


def test_the_worst_element_is_found_again_in_a_narrowed_call(tmp_path: Path) -> None:
    import msgspec

    from sdc_guard.records import Bound, Value

    torch.manual_seed(0)
    small = mm(2)
    (right,) = results_of(small)
    held = right.clone()
    held[1, 2] = 50.0
    finding = finding_for(small, bound=Bound(kind="proof", limit=1e-3, formula="gamma"))
    assert finding.worst is not None
    got = Value(dtype="float32", bits="0x42480000", repr="50.0")
    finding = msgspec.structs.replace(
        finding, worst=msgspec.structs.replace(finding.worst, got=got, index=(1999, 2)))
    large = mm(2000)
    evidence = BundleWriter(tmp_path, max_bundle_bytes=4000).write(
        large, results_of(large), (None,), finding, "s", (small, (held,), (right.double(),)))
    result = replay(read_bundle(evidence.bundle), num_runs=1)
    assert result.reproduces == "expected"
    assert "at the worst element [1, 2]" in result.message


def test_stats_hold_no_user_data(tmp_path: Path) -> None:
    secret = 1234.5678
    call = bound_call(aten.add.Tensor, torch.full((3, 3), secret), torch.ones(3, 3), alpha=31337)
    finding = finding_for(call)
    evidence = BundleWriter(tmp_path, level="stats").write(
        call, results_of(call), results_of(call), finding, "s")
    with zipfile.ZipFile(evidence.bundle) as archive:
        everything = {name: archive.read(name) for name in archive.namelist()}
    assert not [n for n in everything if n.endswith(".bin")]
    assert finding.worst is not None
    for forbidden in (b"31337", finding.worst.got.bits.encode(), b"7fc00001", b"50.24",
                      finding.worst.xor.encode(), torch.full((1,), secret).numpy().tobytes()):
        assert [n for n, data in everything.items() if forbidden in data] == []
    read = read_bundle(evidence.bundle)
    assert read.finding.call.operands == finding.call.operands
    assert read.finding.pattern == finding.pattern
    assert read.finding.worst is not None
    assert read.finding.worst.index == (0, 0)
    assert read.finding == without_values(read.finding)
    described = read.contents.manifest["arguments_described"]
    assert [a["name"] for a in described] == ["self", "other", "alpha"]
    assert described[2]["value"] == {"kind": "int"}


def test_levels_and_limits_are_validated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'all' is unknown; choose one of full, stats, none"):
        BundleWriter(tmp_path, level="all")
    with pytest.raises(UsageError, match="max_total_bytes=-1 is negative"):
        BundleWriter(tmp_path, max_total_bytes=-1)


def test_nothing_is_written_without_a_directory_or_at_level_none(tmp_path: Path) -> None:
    assert write(BundleWriter(None), mm()).note == "not stored: no directory was given"
    none = write(BundleWriter(tmp_path, level="none"), mm())
    assert (none.bundle, none.note) == ("", "not stored: evidence level is none")
    assert list(tmp_path.iterdir()) == []


class _Labelled(torch.Tensor):
    pass


UNSTORABLE: dict[str, Callable[[], BoundCall]] = {
    "Labelled": lambda: bound_call(aten.neg.default, torch.ones(3).as_subclass(_Labelled)),
    "torch.sparse_coo": lambda: bound_call(aten.neg.default, torch.eye(3).to_sparse()),
    "meta device": lambda: bound_call(aten.neg.default, torch.empty(3, device="meta")),
    "lazy conjugate": lambda: bound_call(aten.neg.default,
                                         torch.ones(3, dtype=torch.cfloat).conj()),
    "Generator": lambda: bound_call(aten.bernoulli.p, torch.ones(3), 0.5,
                                    generator=torch.Generator()),
}


@pytest.mark.parametrize("reason", sorted(UNSTORABLE))
def test_what_has_no_raw_bytes_leaves_the_finding_and_the_reason(
    reason: str, tmp_path: Path
) -> None:
    call = UNSTORABLE[reason]()
    writer = BundleWriter(tmp_path)
    evidence = writer.write(call, (torch.ones(3),), (None,), finding_for(mm()), "s")
    assert evidence.note.startswith("stats only: ")
    assert reason in evidence.note
    bundle = read_bundle(evidence.bundle)
    assert not bundle.has_call
    assert bundle.finding.op == "aten.mm.default"


def test_a_freed_operand_is_not_read(tmp_path: Path) -> None:
    operand = torch.ones(1000)
    operand.untyped_storage().resize_(0)
    call = bound_call(aten.neg.default, operand)
    evidence = BundleWriter(tmp_path).write(call, (torch.ones(3),), (None,), finding_for(mm()), "s")
    assert "ends at byte 4000 of a storage of 0 bytes" in evidence.note


def test_no_space_left_is_a_note_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = BundleWriter(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse)
    evidence = write(writer, mm())
    assert evidence.bundle == evidence.replay_command == ""
    assert "No space left on device" in evidence.note
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert write(writer, mm()).bundle
    assert (writer.num_failed, writer.num_written) == (1, 1)


def test_a_file_size_limit_is_a_note(tmp_path: Path) -> None:
    code = f"""
import resource, torch
from pathlib import Path
from tests.unit.evidence.test_bundle_limits import BundleWriter, mm, write
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
evidence = write(BundleWriter(Path({str(tmp_path)!r})), mm())
print(repr(evidence.bundle), evidence.note)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=300, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.stdout.startswith("'' not stored: OSError"), done.stdout
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000


def test_a_directory_that_is_a_file_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    evidence = write(BundleWriter(tmp_path / "out" / "bundles"), mm())
    assert evidence.bundle == ""
    assert "NotADirectoryError" in evidence.note


def test_an_existing_bundle_is_never_overwritten(tmp_path: Path) -> None:
    first, second = BundleWriter(tmp_path), BundleWriter(tmp_path)
    assert write(first, mm()).bundle != write(second, mm()).bundle


def test_every_damaged_byte_is_noticed_or_harmless(bundle_path: Path) -> None:
    """A flipped byte of the file raises BundleError or changes nothing that is read."""
    good = bundle_path.read_bytes()
    reference = read_bundle(bundle_path)
    picks = random.Random(3).sample(range(len(good)), 300)
    noticed = 0
    for position in picks:
        broken = bytearray(good)
        broken[position] ^= 1 << (position % 8)
        bundle_path.write_bytes(bytes(broken))
        try:
            read = read_bundle(bundle_path)
        except BundleError:
            noticed += 1
        else:
            assert read.contents == reference.contents
    assert noticed > 250


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_bundle_is_refused(bundle_path: Path, share: float) -> None:
    data = bundle_path.read_bytes()
    bundle_path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match="damaged or truncated"):
        read_bundle(bundle_path)


def test_a_changed_member_is_refused_even_with_a_right_crc(bundle_path: Path) -> None:
    with zipfile.ZipFile(bundle_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["operands/0.bin"] = bytes(len(members["operands/0.bin"]))
    with zipfile.ZipFile(bundle_path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(BundleError, match=r"operands/0.bin has sha256 .* the manifest says"):
        read_bundle(bundle_path)


def test_missing_foreign_newer_and_compressed_bundles_are_refused(
    bundle_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="FileNotFoundError"):
        read_bundle(tmp_path / "absent.sdcz")
    newer = rewritten(bundle_path, lambda m, _: m.update(schema_version=2))
    with pytest.raises(BundleError, match="schema_version is 2, this reader knows 1 to 1"):
        read_bundle(newer)
    foreign = rewritten(bundle_path, lambda m, _: m.update(format="other"))
    with pytest.raises(BundleError, match="not the manifest of an sdc_guard bundle"):
        read_bundle(foreign)
    escaping = rewritten(bundle_path, lambda _, files: files.update({"../up.bin": b""}))
    with pytest.raises(BundleError, match=r"member name '../up.bin' is not allowed"):
        read_bundle(escaping)
    squeezed = io.BytesIO()
    with zipfile.ZipFile(bundle_path) as source, zipfile.ZipFile(squeezed, "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    bundle_path.write_bytes(squeezed.getvalue())
    with pytest.raises(BundleError, match="compression method 8"):
        read_bundle(bundle_path)


def test_a_member_outside_the_manifest_is_refused(bundle_path: Path) -> None:
    with zipfile.ZipFile(bundle_path, "a") as archive:
        archive.writestr("extra.bin", b"x")
    with pytest.raises(BundleError, match=r"not in the manifest: \['extra.bin'\]"):
        read_bundle(bundle_path)


@pytest.mark.parametrize(
    "name",
    ["os::system.default", "aten::__import__('os').default", "aten::mm", "aten.mm.default",
     "load_library::x.default", "aten::__class__.default", "aten::mm.__class__", "aten::mm.out2",
     "aten::mm.default; import os", "aten::from_file.default", "aten::save.default",
     "prim::device.default", "aten::_print.default", "aten::size.int", "", "aten::.default",
     "c10d::send.default", "profiler::_record_function_enter.default"],
)
def test_hostile_operator_names_are_refused(name: str, bundle_path: Path) -> None:
    changed = rewritten(bundle_path, lambda m, _: m.update(op=name))
    with pytest.raises(BundleError, match="operator"):
        replay(read_bundle(changed))


def test_registered_operators_resolve() -> None:
    assert resolve_op("aten::mm.default") is aten.mm.default
    assert resolve_op("aten::add_.Tensor") is aten.add_.Tensor
    with torch.library._scoped_library("sdc_test_bundle", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        found = resolve_op("sdc_test_bundle::twice.default")
        assert found is torch.ops.sdc_test_bundle.twice.default


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("shape", [4, 800], "ends at byte"), ("stride", [80, 1], "ends at byte"),
     ("offset_bytes", 4, "ends at byte"), ("offset_bytes", -4, "ends at byte"),
     ("stride", [-8, 1], "ends at byte"), ("dtype", "float64", "ends at byte"),
     ("shape", [4, -8], "ends at byte"), ("dtype", "__class__", "malformed"),
     ("region", 9, "malformed"), ("shape", "x", "malformed"), ("device", "warp", "malformed")],
)
def test_a_forged_layout_never_reads_outside_its_bytes(
    field: str, value: Any, reason: str, bundle_path: Path
) -> None:
    def forge(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        manifest["operands"]["tensors"][0][field] = value

    with pytest.raises(BundleError, match=reason):
        read_bundle(rewritten(bundle_path, forge)).fresh_call()


def test_a_forged_alignment_or_argument_is_refused(bundle_path: Path) -> None:
    def far(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        manifest["operands"]["regions"][0]["pad_bytes"] = 10**6

    with pytest.raises(BundleError, match="pad of 1000000 bytes, limit 63"):
        read_bundle(rewritten(bundle_path, far)).fresh_call()

    def strange(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        manifest["arguments"][0]["value"] = {"kind": "pickle", "data": "x"}

    with pytest.raises(BundleError, match="unknown kind 'pickle'"):
        read_bundle(rewritten(bundle_path, strange)).fresh_call()

    def renamed(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        manifest["arguments"][0]["name"] = "selves"

    with pytest.raises(BundleError, match=r"takes no argument \['selves'\]"):
        read_bundle(rewritten(bundle_path, renamed)).fresh_call()


def test_writing_changes_nothing_in_the_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    call = CALLS["fp32 mm"]()
    before = [t.clone() for _, t in call.tensors()]
    rng = torch.get_rng_state()
    write(BundleWriter(tmp_path), call)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(a, t) for a, (_, t) in zip(before, call.tensors(), strict=True))


def test_writing_calls_no_operator(tmp_path: Path) -> None:
    """So it neither shows up in a dispatch mode nor trusts a kernel that is under test."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None
                               ) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    for name, make in CALLS.items():
        call = make()
        held = results_of(make())
        finding = finding_for(call)
        with Watch():
            evidence = BundleWriter(tmp_path).write(call, held, held, finding, name)
        assert evidence.bundle
    assert seen == []
