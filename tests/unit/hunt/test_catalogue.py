"""Torch's own catalogue on disk, and what happens where it cannot be read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from sdc_guard.errors import UsageError
from sdc_guard.hunt import catalogue
from sdc_guard.hunt.catalogue import Catalogue, is_kept, read_catalogue, version_here
from sdc_guard.hunt.loading import load_templates


def _written(path: Path) -> str:
    path.write_bytes(msgspec.json.encode(Catalogue(
        version=version_here(), num_entries=7, templates=(), skipped={"a": "b"})))
    return ""


def test_a_damaged_file_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(catalogue, "_written_by_child",
                        lambda path: (calls.append(path), _written(path))[1])
    first, _ = read_catalogue(tmp_path)
    assert first is not None
    assert first.num_entries == 7
    again, _ = read_catalogue(tmp_path)
    assert again == first
    assert len(calls) == 1
    calls[0].write_bytes(b'{"version": 3')
    assert read_catalogue(tmp_path)[0] == first
    assert len(calls) == 2


def test_a_file_that_is_kept_need_not_be_made(tmp_path: Path) -> None:
    assert not is_kept(tmp_path)
    (tmp_path / f"catalogue-{catalogue.FORMAT}-torch-{torch.__version__}.json").write_text("")
    assert is_kept(tmp_path)


def test_without_torchs_test_tools_the_built_in_catalogue_is_used_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_written_by_child", lambda path: "no module named expecttest")
    found = load_templates(tmp_path, ops=("torch.nn.functional.gelu",))
    assert list(found.by_target) == ["torch.nn.functional.gelu"]
    assert found.catalogue == "built-in (no module named expecttest)"


def test_a_function_that_takes_no_guessed_call_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_written_by_child", lambda path: "none")
    with pytest.raises(UsageError, match="--trace"):
        load_templates(tmp_path, ops=("tests.unit.hunt.test_space.takes_nothing",))


@pytest.mark.slow
def test_torchs_catalogue_is_read_and_most_of_it_can_be_hunted(tmp_path: Path) -> None:
    pytest.importorskip("expecttest")
    found, reason = read_catalogue(tmp_path)
    assert found is not None, reason
    targets = {t.trial.target for t in found.templates}
    assert {"torch.sum", "torch.nn.functional.gelu", "torch.Tensor.add_", "torch.mm"} <= targets
    assert len(found.skipped) < found.num_entries // 5
    assert any(t.trial.backward for t in found.templates)
    assert any("out" in t.trial.kwargs for t in found.templates)
