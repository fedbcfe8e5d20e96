"""A run's folder: made for a new run, found again for one that goes on, cleared of what a killed start has left."""

import contextlib
import datetime
import itertools
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import torch
from filelock import FileLock, Timeout

from ..config import Config, config_text, load_config, parse_config
from ..data.sources import find_data
from ..data.store import Store, open_store, prepare
from ..errors import DivergedError, InputError
from ..files import new_file, work_dir, write_text
from .distributed import is_first

LOCK = ".scfm-lock"
MARK = ".scfm-run"  # says that a run made this folder, so that what a killed one left may be removed:
FOLDERS = {"store", "logs", "checkpoints", "wandb"}
FILES = {MARK, LOCK, "config.yaml", "metrics.jsonl", "wandb_id.txt", "diverged.pt"}


@dataclass
class RunDir:
    """What a run needs from disk before its next step."""

    path: Path
    config: Config
    store: Path
    checkpoint: Path | None = None  # to go on from
    saved: dict[str, Any] | None = None  # what is in it
    began_from: list[str] = field(default_factory=list)  # the stores of the models before it
    claim: AbstractContextManager = field(default_factory=contextlib.nullcontext)  # on the folder, while it is trained

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"claim": contextlib.nullcontext()}  # another process that is sent it has none


def claim(run_dir: Path) -> AbstractContextManager:
    """Makes a run's folder this process's until the block or the process ends, however it ends.

    Raises:
        InputError: another process trains there.
    """
    try:
        return FileLock(run_dir / LOCK).acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"another process is training in {run_dir}; wait for its end, or choose another --run-dir"
        ) from None
    except (NotImplementedError, OSError):
        return contextlib.nullcontext()  # a drive without locks


def find_run(run_dir: str | Path | None) -> Path | None:
    """The run folder, if a run can go on there. What a run left that was killed before its first checkpoint is removed,
    but nothing of a folder that no run has made.

    Raises:
        InputError: no folder is given.
    """
    if run_dir is None:
        raise InputError("resume='auto' needs a run_dir (--run-dir): the folder where the run is or shall be")
    run_dir = Path(run_dir)
    if any((run_dir / "checkpoints").glob("checkpoint_step_*.pt")):
        return run_dir
    if (run_dir / MARK).exists():
        with claim(run_dir):
            pass  # nobody prepares there
        for left in run_dir.iterdir():
            if left.is_dir() and (left.name in FOLDERS or left.name.startswith(".store-")):
                shutil.rmtree(left)
            elif left.name in FILES or left.name.endswith("-metrics.jsonl"):
                left.unlink()
    return None


def resumed_run(
    checkpoint: Path, saved: dict[str, Any], run_dir: str | Path | None, data: Any, asked: Config | str | Path | None
) -> RunDir:
    """A run as its checkpoint left it.

    Args:
        checkpoint: the file.
        saved: what is in it.
        run_dir: where to go on; the checkpoint's own run when unset.
        data: the store, if it has moved.
        asked: settings that the run must have, if any are asked for.

    Raises:
        InputError: data that are not a store, a store of other genes, other settings, or a folder in which something
            else is.
    """
    home = checkpoint.resolve().parent.parent
    path = Path(run_dir or home)
    elsewhere = path.resolve() != home and not (path / saved["store"] / "store.json").exists()
    if elsewhere and path.exists() and any(path.iterdir()):
        raise InputError(
            f"run folder {path} is not empty and not this run's; choose another --run-dir, or leave it out"
        )
    if data is None:
        store = (home if elsewhere else path) / saved["store"]  # where the stored path is absolute, that one
    elif isinstance(data, (str, Path)) and (Path(data) / "store.json").exists():
        store = Path(data)
    else:
        called = f"an AnnData of {data.n_obs:,} cells" if isinstance(data, ad.AnnData) else data
        raise InputError(
            f"a run that goes on reads the store it was trained on, not {called}; leave the data out, or give "
            "that store's folder if it has moved"
        )
    if open_store(store).symbols.tolist() != saved["symbols"]:
        raise InputError(f"store {store} has another vocabulary than the checkpoint; give the store it was trained on")
    config = parse_config(saved["config"], "the checkpoint's config")
    check_same(config, asked, path)
    path.mkdir(parents=True, exist_ok=True)
    claimed = claim(path) if is_first() else contextlib.nullcontext()
    return RunDir(path, config, store, checkpoint, saved, saved["began_from"], claimed)


def check_same(config: Config, asked: Config | str | Path | None, path: Path) -> None:
    """Refuses to go on with a run whose model or training is not what is asked for.

    Its number of tokens and its data settings follow from its store and are not compared.

    Raises:
        InputError: naming the first setting that differs.
    """
    if asked is None:
        return
    asked = asked if isinstance(asked, Config) else load_config(asked)
    for section, left_out in (("model", {"n_genes"}), ("training", set())):
        ours = getattr(config, section).model_dump(exclude=left_out)
        for key, wanted in getattr(asked, section).model_dump(exclude=left_out).items():
            if ours[key] != wanted:
                raise InputError(
                    f"run {path} has {section}.{key} = {ours[key]}, not {wanted}; a run keeps its settings: to go "
                    "on with it give none (no --preset, --config or --set), else delete it or name another --run-dir"
                )


def new_run(config: Config, data: Any, run_dir: str | Path | None, began_from: list[str]) -> RunDir:
    """A new run: its folder is made, its data are prepared, its config is written.

    Raises:
        InputError: no data, bad data, or a folder in use.
    """
    if data is None:
        raise InputError("there is nothing to learn from; give --data_path DATA.h5ad, a store, or a data set's name")
    config = config.model_copy(deep=True)
    run_dir = _new_run_dir(run_dir)
    claimed = claim(run_dir)
    try:
        store = _prepared(data, config, run_dir)
    except BaseException:
        with claimed:
            pass
        with contextlib.suppress(OSError):
            (run_dir / MARK).unlink()
            (run_dir / LOCK).unlink(missing_ok=True)
            run_dir.rmdir()  # fails, and may, where something else was written
        raise
    follow_store(config, store)
    write_text(run_dir / "config.yaml", config_text(config))
    return RunDir(run_dir, config, store.dir, began_from=began_from, claim=claimed)


def follow_store(config: Config, store: Store) -> None:
    """The model has the store's genes, which may be fewer than the preset's, and its cells are split as the store says.

    A store prepared earlier may have been split otherwise than this config asks; evaluation must not judge cells on
    the wrong side.
    """
    config.data = store.data_config.model_copy(deep=True)
    config.data.preprocessing.n_top_genes = None
    config.model.n_genes = store.n_tokens


def _new_run_dir(run_dir: str | Path | None) -> Path:
    if run_dir is None:
        return _dated_run_dir(work_dir() / datetime.datetime.now().strftime("%Y%m%d-%H%M%S"))
    run_dir = Path(run_dir)
    if run_dir.is_file():
        raise InputError(f"run folder {run_dir} is a file; choose another --run-dir")
    if run_dir.exists() and any(run_dir.iterdir()):
        raise InputError(
            f"run folder {run_dir} is not empty; continue it with --resume {run_dir}, or choose another --run-dir"
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        (run_dir / MARK).touch(exist_ok=False)
    except FileExistsError:
        raise InputError(f"another run has just begun in {run_dir}; choose another --run-dir") from None
    return run_dir


def _dated_run_dir(wanted: Path) -> Path:
    """A folder of that name, or with a number behind it: two runs may begin in one second."""
    for number in itertools.count(1):
        run_dir = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            run_dir.mkdir(parents=True)
        except FileExistsError:
            continue
        (run_dir / MARK).touch()
        return run_dir


def _prepared(data: Any, config: Config, run_dir: Path) -> Store:
    sources = [find_data(source) for source in (data if isinstance(data, list) else [data])]
    if len(sources) == 1 and not isinstance(sources[0], ad.AnnData) and (Path(sources[0]) / "store.json").exists():
        return open_store(sources[0])
    return prepare(sources, config, run_dir / "store")


def with_batch(error: DivergedError, batch: Any, lr: float, run: RunDir, newest: Path) -> DivergedError:
    """The error with what to try, after the batch that the step went wrong on was written to `diverged.pt`.

    Args:
        error: says what is not finite, and at which step.
        batch: of that step; None in a process that does not write.
        lr: the learning rate of that step.
        run: its folder gets the file; that its disk refuses is said too.
        newest: the last good checkpoint.
    """
    file, where = run.path / "diverged.pt", ""
    try:
        if batch is not None:
            tensors = {name: torch.as_tensor(values) for name, values in vars(batch).items()}
            with new_file(file) as temporary:
                torch.save({"step": error.step, "learning_rate": lr} | tensors, temporary)
            where = f", its batch is in {file}"
    except OSError as refused:
        where = f", its batch could not be written ({refused.strerror})"
    lower = f"--init {newest} --set training.learning_rate={run.config.training.learning_rate / 4:.1g}"
    return DivergedError(
        f"{error}: the learning rate was {lr:.2g}{where}; from the last good checkpoint try {lower}", error.step
    )
