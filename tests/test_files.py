"""Where files lie, and that they are written whole or not at all."""

import os
import stat
import sys
from pathlib import Path

import pytest

from scfm_lib import files


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    files.write_text(path, "first")

    def fails() -> None:
        with files.new_file(path) as temporary:
            assert temporary.suffix == ".h5ad"  # writers look at it
            temporary.write_text("sec")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fails()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
    files.write_text(path, "second")
    assert path.read_text() == "second"


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store"

    def stopped() -> None:
        with files.new_folder(path) as temporary:
            (temporary / "a").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(path.parent.iterdir()) == []
    with files.new_folder(path) as temporary:
        (temporary / "a").touch()
    assert [entry.name for entry in path.parent.rglob("*")] == ["store", "a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write_text(tmp_path / "file", "text")
        with files.new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")]
    assert modes == [0o644, 0o755]


def test_where_runs_go(monkeypatch, tmp_path) -> None:
    assert files.work_dir() == tmp_path / "work"
    monkeypatch.delenv("SCFM_WORK_DIR")
    monkeypatch.chdir(files.PROJECT / "notebooks")
    assert files.work_dir() == files.PROJECT / "runs"
    monkeypatch.chdir(tmp_path)
    assert files.work_dir() == tmp_path / "runs"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-20260801")
    monkeypatch.setattr(files, "DRIVE", tmp_path / "MyDrive")
    assert files.work_dir() == tmp_path / "runs"  # Drive is not mounted
    (tmp_path / "MyDrive").mkdir()
    assert files.work_dir() == tmp_path / "MyDrive" / "scfm-runs"
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert str(files.work_dir()) == "/kaggle/working/runs"
