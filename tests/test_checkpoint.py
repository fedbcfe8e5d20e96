"""Files of weights that are damaged, of another kind, or hostile: refused in one line, and nothing of them is run."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import scfm_lib as scfm
from scfm_lib.checkpoint import load_checkpoint


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    """A copy of a good one, which a test may spoil."""
    return Path(shutil.copy(trained.checkpoint, tmp_path))


@pytest.fixture
def shared(trained, tmp_path) -> Path:
    return scfm.save_pretrained(trained, tmp_path / "shared")


def flipped(file: Path, good: bytes, place: int, bit: int) -> None:
    content = bytearray(good)
    content[place] ^= 1 << bit
    file.write_bytes(content)


def same(a: object, b: object) -> bool:
    """Whether two states hold the same, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_no_flipped_bit_of_a_checkpoint_goes_unseen(checkpoint) -> None:
    good, state = checkpoint.read_bytes(), load_checkpoint(checkpoint)
    rng, refused = np.random.default_rng(0), 0
    for place, bit in zip(rng.integers(0, len(good), 150), rng.integers(0, 8, 150), strict=True):
        flipped(checkpoint, good, place, bit)
        try:
            found = load_checkpoint(checkpoint)
        except scfm.InputError:
            refused += 1
        else:
            assert same(found, state), place  # in the padding between records
    assert refused > 100
    flipped(checkpoint, good, len(good) // 2, 3)
    with pytest.raises(scfm.InputError, match=r"checkpoint_step_\d+\.pt cannot be read as .*, use an earlier one$"):
        load_checkpoint(checkpoint)


def test_cut_and_foreign_checkpoints_are_refused(checkpoint, tmp_path) -> None:
    good = checkpoint.read_bytes()
    for size in (0, 1, 100, len(good) // 2, len(good) - 1):
        checkpoint.write_bytes(good[:size])
        with pytest.raises(scfm.InputError, match="cannot be read as a checkpoint"):
            load_checkpoint(checkpoint)
    with zipfile.ZipFile(checkpoint, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(scfm.InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(checkpoint)
    torch.save({"state_dict": {}}, checkpoint)
    with pytest.raises(scfm.InputError, match="of another model"):
        load_checkpoint(checkpoint)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mknod, (str(self.file),)


def test_a_checkpoint_cannot_run_code(checkpoint, tmp_path) -> None:
    gone_off = tmp_path / "gone off"
    pickle.loads(pickle.dumps(Bomb(gone_off)))
    assert gone_off.exists()  # the bomb works
    gone_off.unlink()
    torch.save({"format": "scfm-checkpoint-4", "model": Bomb(gone_off)}, checkpoint)
    with pytest.raises(scfm.InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(checkpoint)
    checkpoint.write_bytes(pickle.dumps(Bomb(gone_off)))
    with pytest.raises(scfm.InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(checkpoint)
    assert not gone_off.exists()


def test_no_flipped_bit_of_a_shared_model_goes_unseen(shared) -> None:
    files = [shared / name for name in ("model.safetensors", "vocabulary.json", "config.json")]
    good, rng = {file: file.read_bytes() for file in files}, np.random.default_rng(0)
    model = scfm.load_model(shared)
    weights, symbols = model.state_dict(), model.symbols.tolist()
    for file in files:
        refused = 0
        for place, bit in zip(rng.integers(0, len(good[file]), 60), rng.integers(0, 8, 60), strict=True):
            flipped(file, good[file], place, bit)
            try:
                found = scfm.load_model(shared)
            except scfm.InputError:
                refused += 1
            else:
                assert file.name == "config.json"  # a version or step may be another; the weights are what they were
                assert same(dict(found.state_dict()), dict(weights))
                assert found.symbols.tolist() == symbols
        file.write_bytes(good[file])
        assert refused == 60 or file.name == "config.json"


def test_a_shared_model_without_checksums_or_with_other_weights(shared) -> None:
    told = json.loads((shared / "config.json").read_text())
    weights = load_file(shared / "model.safetensors")
    save_file(weights | {"output_bias": weights["output_bias"] + 1}, shared / "model.safetensors")
    with pytest.raises(scfm.InputError, match=r"model\.safetensors .*not the file that was written .* copy it again"):
        scfm.load_model(shared)
    del told["sha256"]  # of an earlier edition, or changed on purpose
    (shared / "config.json").write_text(json.dumps(told))
    assert scfm.load_model(shared)
