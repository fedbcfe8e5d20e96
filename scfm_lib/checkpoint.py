"""A run's state on disk: all it needs to go on, in one file that no crash can leave half-written."""

import re
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import Config, TrainingConfig, parse_config
from .errors import DivergedError, InputError
from .files import new_file, patiently
from .model import CellTransformer
from .runtime.model_dir import is_model_dir, read_model_dir
from .runtime.threads import ONE_THREAD, Threads
from .versions import versions

FORMAT = "scfm-checkpoint-4"


@dataclass
class TrainState:
    """All that changes while a model trains, and how it is trained."""

    model: CellTransformer
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    settings: TrainingConfig
    device: torch.device
    precision: str = "fp32"
    step: int = 0  # optimizer steps taken
    micro_batches: int = 1  # forward passes of each process in a step
    threads: Threads = ONE_THREAD  # that share a forward pass
    best: dict[str, Any] | None = None  # with `training.patience`: the weights with the lowest held-out loss so far
    waited: int = 0  # epochs since then

    def judge_epoch(self, held_out_loss: float) -> None:
        """With `training.patience`, remembers the weights with the lowest held-out loss; counts the epochs since."""
        if self.settings.patience is None:
            return
        if self.best is None or held_out_loss < self.best["validation_loss"]:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
            self.best, self.waited = {"validation_loss": held_out_loss, "step": self.step, "model": weights}, 0
        else:
            self.waited += 1

    @property
    def waits_no_more(self) -> bool:
        """Whether `training.patience` is over."""
        return self.settings.patience is not None and self.waited >= self.settings.patience

    def saved(self) -> dict[str, Any]:
        """What must be stored to go on from here, equal to the bit."""
        on_card = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "waited": self.waited,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if on_card else None,
        }

    def restore(self, saved: dict[str, Any], *, random_state: bool = True) -> None:
        """Takes over what a checkpoint holds.

        Raises:
            InputError: it is of a model with other dimensions.
        """
        put_weights(self.model, saved)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.best, self.waited = saved["step"], saved["best"], saved["waited"]
        if random_state:
            torch.set_rng_state(saved["torch_rng"])
            if self.device.type == "cuda" and saved["cuda_rng"] is not None:
                torch.cuda.set_rng_state(saved["cuda_rng"])


class Checkpoints:
    """When a run is saved, and saving it.

    Args:
        run_dir: gets `checkpoints/checkpoint_step_N.pt`.
        settings: how often, and how many are kept.
        constants: what a checkpoint holds beside the state: config, gene names, start, store.
        newest: the checkpoint that the run goes on from.
        writes: whether this process does; of several only the first.
    """

    def __init__(
        self, run_dir: Path, settings: TrainingConfig, constants: dict[str, Any], newest: Path | None, writes: bool
    ):
        self.run_dir, self.settings, self.constants = run_dir, settings, constants
        self.newest, self.writes, self._saved_at = newest, writes, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether enough steps or minutes have gone by."""
        late = time.monotonic() - self._saved_at > 60 * self.settings.checkpoint_every_minutes
        return late or step % self.settings.checkpoint_every_steps == 0

    def save(self, state: TrainState) -> None:
        """Writes the state, and waits where the drive has dropped.

        Raises:
            DivergedError: a weight is not a finite number. (Under fp16 the scaler skips steps whose gradients are not.)
            OSError: the disk is full or not writable; nothing half-written is left.
        """
        if not all(weight.isfinite().all() for weight in state.model.parameters()):
            raise DivergedError(f"a weight is not a finite number after step {state.step}", state.step)
        self.newest = self.run_dir / "checkpoints" / f"checkpoint_step_{state.step}.pt"
        if self.writes:
            save_checkpoint(self.newest, {"step": state.step} | state.saved() | self.constants)
            patiently(self._delete_old)
        self._saved_at = time.monotonic()

    def _delete_old(self) -> None:
        for old in _by_step(self.newest.parent)[: -self.settings.keep_checkpoints]:
            old.unlink(missing_ok=True)
        for left in self.newest.parent.glob(".*-checkpoint_step_*.pt"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint.

    Raises:
        OSError: the disk is full or not writable; nothing half-written is left.
    """

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as temporary:
            torch.save({"format": FORMAT, "versions": versions(), **state}, temporary)

    patiently(write)


def _by_step(folder: Path) -> list[Path]:
    files = [p for p in folder.glob("checkpoint_step_*.pt") if re.fullmatch(r"checkpoint_step_\d+", p.stem)]
    return sorted(files, key=lambda p: int(p.stem.rsplit("_", 1)[1]))


def find_checkpoint(path: str | Path) -> Path:
    """The file itself, or the newest checkpoint of a run's folder.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and _by_step(folder):
            return _by_step(folder)[-1]
    if is_model_dir(path):
        raise InputError(
            f"{path} is a shared model, which can embed but not go on or be judged; give the run that it came from, or "
            "embed your cells and judge obsm['X_scfm']"
        )
    raise InputError(f"there is no checkpoint at {path}; give RUN or RUN/checkpoints/checkpoint_step_N.pt")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The stored state on the CPU. Only tensors and plain values are read: a checkpoint cannot run code.

    Raises:
        InputError: not one of this library's checkpoints, or damaged.
    """
    path = find_checkpoint(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch writes a checksum of every record, and does not look at it
        if damaged:
            raise ValueError(f"{damaged} is not what was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # of a file that is no archive torch tells only what it would do about old formats
        reason = str(error).splitlines()[0][:80] if zipfile.is_zipfile(path) else "it is no whole archive of torch.save"
        raise InputError(
            f"{path} cannot be read as a checkpoint ({reason}); RUN comes before data; if damaged, use an earlier one"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(
            f"{path} is a checkpoint of another model, or of an earlier edition of scfm; give one written by "
            "`scfm train` of this edition"
        )
    needed = "model optimizer scaler config cells_per_step symbols ensembl start store began_from"
    missing = set(needed.split()) - state.keys()
    if missing:
        raise InputError(f"{path} is incomplete (no {', '.join(sorted(missing))}); use another checkpoint of the run")
    return state


def trained_on(path: str | Path | None, state: dict[str, Any] | None = None) -> list[str]:
    """The stores of a checkpoint's cells, first those of the models it began from; of a shared model its folder.

    `state` is what the checkpoint holds, if it was read already.

    Raises:
        InputError: as `load_checkpoint`.
    """
    if path is None or is_model_dir(path):
        return [] if path is None else [str(Path(path).resolve())]
    file = find_checkpoint(path)
    state = state or load_checkpoint(file)
    return [*state["began_from"], str(file.resolve().parent.parent / state["store"])]


def checkpoint_config(state: dict[str, Any]) -> Config:
    """The config a checkpoint was trained with; `model.n_genes` is the vocabulary it really has."""
    return parse_config(state["config"], "the checkpoint's config")


def load_model(path: str | Path) -> CellTransformer:
    """The trained model of a checkpoint, run or shared folder, on the CPU, in evaluation mode, with its gene names.

    Raises:
        InputError: as `load_checkpoint` or `read_model_dir`.
    """
    return model_of(read_model(path))


def read_model(path: str | Path) -> dict[str, Any]:
    """What a checkpoint, run or shared folder holds: `model` (weights), `config`, `symbols` and `ensembl` at least.

    Raises:
        InputError: as `load_checkpoint` or `read_model_dir`.
    """
    return read_model_dir(path) if is_model_dir(path) else load_checkpoint(path)


def config_like(path: str | Path) -> Config:
    """A config for training on from a checkpoint, run or shared folder: its dimensions and schedule, no data settings.

    Raises:
        InputError: as `load_model`.
    """
    found = checkpoint_config(read_model(path))
    return Config(model=found.model, training=found.training)


def model_of(state: dict[str, Any]) -> CellTransformer:
    """The model that a checkpoint or shared folder holds, on the CPU, in evaluation mode, with its gene names.

    Raises:
        InputError: the weights are of other dimensions than the config says.
    """
    offsets = state["model"].get("batch_offset", ())
    model = CellTransformer(checkpoint_config(state).model, len(state["symbols"]), len(offsets))
    put_weights(model, state | {"model": weights_of(state)})
    return model.eval()


def weights_of(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to use: with `training.patience` those of the best epoch so far, else the last."""
    return (state.get("best") or state)["model"]


def put_weights(model: CellTransformer, state: dict[str, Any]) -> None:
    """Loads a checkpoint's weights and gene names into a model of the same dimensions.

    Raises:
        InputError: the dimensions differ.
    """
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise InputError(f"the checkpoint is of a model with other dimensions ({reason}); use its own config") from None
    model.symbols = np.array(state["symbols"], dtype=object)
    model.ensembl = np.array(state["ensembl"], dtype=object)
