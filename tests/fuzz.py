"""Bad files in bulk: builds one from a recipe, gives it to a command in a process of its own, and says what happened.

    python tests/fuzz.py [CASES] [SEED]    runs so many random recipes and prints a table by kind and outcome

A recipe is `{"base", "kinds", "command", "seed"}`. The process that is asked has everything imported and forks a child
for each case, with 30 seconds and 3 GB; tests/test_fuzz.py lets hypothesis choose the recipes.
"""

import os

if __name__ == "__main__":  # read when they are imported; a process of tests that imports this keeps its own
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import collections
import itertools
import json
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

SECONDS, BYTES = 30, 3 * 10**9
ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("SCFM_DATA_DIR", "")) / "pbmc3k.h5ad"
TINY = [
    "model.n_genes=60", "model.gene_embedding_dim=8", "model.hidden_dim=16", "model.num_heads=2", "model.ff_dim=32",
    "data.preprocessing.min_genes=5", "training.num_epochs=1",
]  # fmt: skip
SET = [word for pair in TINY for word in ("--set", pair)]
COMMANDS: dict[str, list[str]] = {
    "prepare": ["prepare", "FILE", "--out", "out", *SET],
    "train": ["train", "--data_path", "FILE", "--run-dir", "out", "--max-steps", "1", *SET],
    "embed": ["embed", str(ROOT / "data" / "minimal"), "FILE", "--out", "out.h5ad"],
    "judge": ["judge", "FILE", "--obsm", "X_given", "--no-scvi", "--out", "out"],
    "estimate": ["estimate", "--data", "FILE", "--gpu", "T4"],
}

Rng = np.random.Generator
Cells = Callable[[ad.AnnData, Rng], ad.AnnData | None]  # changes the cells before they are written
Damage = Callable[[Path, Rng], None]  # changes the file


def with_values(*values: float) -> Cells:
    """Some counts are no counts."""

    def change(adata: ad.AnnData, rng: Rng) -> None:
        adata.X.data = adata.X.data.astype(np.float64)
        adata.X.data[rng.integers(0, adata.X.nnz, 3)] = rng.choice(values, 3)

    return change


def with_dtype(*dtypes: str) -> Cells:
    def change(adata: ad.AnnData, rng: Rng) -> None:
        adata.X = adata.X.astype(str(rng.choice(dtypes)))

    return change


def with_names(of: str, make: Callable[[list[str], Rng], list[str]]) -> Cells:
    def change(adata: ad.AnnData, rng: Rng) -> None:
        setattr(adata, f"{of}_names", make(list(getattr(adata, f"{of}_names")), rng))

    return change


def with_obs(values: Callable[[int, Rng], object]) -> Cells:
    def change(adata: ad.AnnData, rng: Rng) -> None:
        adata.obs["cell_type"] = values(adata.n_obs, rng)

    return change


def empty_rows(adata: ad.AnnData, rng: Rng) -> None:
    adata.X = sp.csr_matrix(adata.X.multiply(rng.random((adata.n_obs, 1)) > 0.1))


def empty_columns(adata: ad.AnnData, rng: Rng) -> None:
    adata.X = sp.csr_matrix(adata.X.multiply(rng.random((1, adata.n_vars)) > 0.5))


def as_layer(adata: ad.AnnData, rng: Rng) -> None:
    adata.layers[str(rng.choice(["counts", "umi", "a layer"]))] = adata.X.copy()
    adata.X = adata.X.log1p() if rng.random() < 0.5 else None


def as_raw(adata: ad.AnnData, rng: Rng) -> ad.AnnData:
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    return adata[:, : max(1, adata.n_vars // 2)].copy()


def without_columns_of_obs(adata: ad.AnnData, rng: Rng) -> None:
    adata.obs = adata.obs[[]]


def some(of: str, *sizes: int) -> Cells:
    def change(adata: ad.AnnData, rng: Rng) -> ad.AnnData:
        size = int(rng.choice(sizes))
        return adata[:size].copy() if of == "obs" else adata[:, :size].copy()

    return change


CELLS: dict[str, Cells] = {
    "as they are": lambda adata, rng: None,
    "nan": with_values(np.nan),
    "infinite": with_values(np.inf, -np.inf),
    "negative": with_values(-1, -1e9),
    "fractions": with_values(0.5, 1e-9),
    "huge counts": with_values(2**31, 2**32, 2**33, 1e300),
    "explicit zeros": with_values(0),
    "other dtype": with_dtype("int8", "int64", "uint16", "float64", "bool", "float32"),
    "dense": lambda adata, rng: setattr(adata, "X", adata.X.toarray()),
    "by genes": lambda adata, rng: setattr(adata, "X", adata.X.tocsc()),
    "empty rows": empty_rows,
    "empty columns": empty_columns,
    "in a layer": as_layer,
    "in raw": as_raw,
    "few cells": some("obs", 0, 1, 2, 5),
    "few genes": some("var", 0, 1, 2, 30),
    "duplicate cells": with_names("obs", lambda names, rng: [*names[:-2], names[0], names[0]]),
    "duplicate genes": with_names("var", lambda names, rng: [*names[:-2], names[0], names[0]]),
    "empty names": with_names("var", lambda names, rng: ["" if rng.random() < 0.3 else name for name in names]),
    "empty cell names": with_names("obs", lambda names, rng: ["", *names[1:]]),
    "ensembl and symbols": with_names(
        "var", lambda names, rng: [f"ENSG{i:011d}" if rng.random() < 0.5 else name for i, name in enumerate(names)]
    ),
    "mouse genes": with_names("var", lambda names, rng: [name.capitalize() for name in names]),
    "mouse ensembl": with_names("var", lambda names, rng: [f"ENSMUSG{i:011d}" for i, _ in enumerate(names)]),
    "unicode names": with_names("var", lambda names, rng: [f"{name} β/\u202e\n," for name in names]),
    "unicode cells": with_names("obs", lambda names, rng: [f"cell {name} 細胞" for name in names]),
    "html labels": with_obs(lambda n, rng: rng.choice(["<script>alert(1)</script>", "</pre><b>&", "T"], n)),
    "unused levels": with_obs(lambda n, rng: pd.Categorical(rng.choice(["a", "b"], n), ["a", "b", "c", "d"])),
    "nullable strings": with_obs(lambda n, rng: pd.array(rng.choice(["a", "b", None], n), dtype="string")),
    "missing labels": with_obs(lambda n, rng: rng.choice(["a", "b", None], n)),
    "number labels": with_obs(lambda n, rng: rng.integers(0, 3, n)),
    "one label": with_obs(lambda n, rng: ["all"] * n),
    "label a cell": with_obs(lambda n, rng: [f"type {i}" for i in range(n)]),
    "no obs": without_columns_of_obs,
}


def truncated(path: Path, rng: Rng) -> None:
    os.truncate(path, int(rng.integers(0, path.stat().st_size)))


def bits_flipped(path: Path, rng: Rng) -> None:
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), int(rng.integers(1, 30))):
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def other_bytes(path: Path, rng: Rng) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(0, 5000))))


def another_format(path: Path, rng: Rng) -> None:
    path.write_text(str(rng.choice(["gene,cell\nA,1\n", "<html>404</html>", "{}", "\x00" * 100])))


def pipe(path: Path, rng: Rng) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path, rng: Rng) -> None:
    path.unlink()
    path.mkdir()


def sparse_part(part: str, change: Callable[[np.ndarray, Rng], np.ndarray | None]) -> Damage:
    """One of the three arrays of a sparse matrix is no longer right."""

    def damage(path: Path, rng: Rng) -> None:
        with h5py.File(path, "r+") as file:
            found = [group for group in (file.get("X"), file.get("raw/X"), *file.get("layers", {}).values()) if group]
            for group in found:
                if isinstance(group, h5py.Group) and part in group:
                    values = group[part][:].astype(np.int64)
                    if len(values):
                        changed = change(values, rng)
                        del group[part]
                        group[part] = values if changed is None else changed

    return damage


def put(*values: int) -> Callable[[np.ndarray, Rng], None]:
    def change(array: np.ndarray, rng: Rng) -> None:
        array[rng.integers(0, len(array), 3)] = rng.choice(values, 3)

    return change


def shape_of_matrix(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        if isinstance(file.get("X"), h5py.Group):
            rows, columns = file["X"].attrs["shape"]
            options = [(columns, rows), (rows + 1, columns), (rows, 2**33), (2**31, columns), (-1, columns), (0, 0)]
            file["X"].attrs["shape"] = options[int(rng.integers(len(options)))]


def without_part(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        parts = ["X", "obs", "var", "obs/_index", "var/_index", "X/indptr", "X/indices", "X/data", "uns", "layers"]
        there = [part for part in parts if part in file]
        del file[there[int(rng.integers(len(there)))]]


def without_attributes(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        there = [group for group in (file, file.get("X"), file.get("obs"), file.get("var")) if group is not None]
        group = there[int(rng.integers(len(there)))]
        for name in list(group.attrs):
            if rng.random() < 0.7:
                del group.attrs[name]


def strings_for_counts(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        if isinstance(file.get("X"), h5py.Group) and "data" in file["X"]:
            count = len(file["X/data"])
            del file["X/data"]
            file["X/data"] = np.array(["one"] * count, dtype=h5py.string_dtype())


def names_of_other_length(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        of = str(rng.choice(["obs", "var"]))
        if of in file and isinstance(file[of], h5py.Group) and isinstance(file[of].get("_index"), h5py.Dataset):
            names = file[of]["_index"][:]
            del file[of]["_index"]
            file[of]["_index"] = names[: len(names) // 2] if rng.random() < 0.5 else np.concatenate([names, names])


def endless_names(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        of = str(rng.choice(["obs", "var"]))
        if of in file and "_index" in file[of]:
            del file[of]["_index"]
            file[of].create_dataset("_index", shape=(2**33,), dtype=h5py.string_dtype(), chunks=(1024,))


def codes_out_of_range(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        codes = file.get("obs/cell_type/codes")
        if codes is not None and len(codes):
            codes[: len(codes) // 2 + 1] = 100


DAMAGE: dict[str, Damage] = {
    "truncated": truncated,
    "bits flipped": bits_flipped,
    "other bytes": other_bytes,
    "another format": another_format,
    "a pipe": pipe,
    "a folder": folder,
    "indices too large": sparse_part("indices", put(2**31 - 1, 10**6, 2**33)),
    "indices negative": sparse_part("indices", put(-1, -(2**31))),
    "indptr too large": sparse_part("indptr", put(2**31, 2**33, 2**62)),
    "indptr negative": sparse_part("indptr", put(-1, -(2**33))),
    "indptr falling": sparse_part("indptr", lambda array, rng: np.r_[array[:1], array[1:-1][::-1], array[-1:]]),
    "indptr short": sparse_part("indptr", lambda array, rng: array[: len(array) // 2]),
    "indices short": sparse_part("indices", lambda array, rng: array[: len(array) // 2]),
    "indices fractions": sparse_part("indices", lambda array, rng: array + 0.5),
    "shape wrong": shape_of_matrix,
    "a part missing": without_part,
    "attributes missing": without_attributes,
    "strings for counts": strings_for_counts,
    "names of other length": names_of_other_length,
    "endless names": endless_names,
    "codes out of range": codes_out_of_range,
}
HOSTILE_YAML = [
    "!!python/object/apply:os.system ['touch escaped']", "a: &a [*a]", "model: {hidden_dim: 1e400}", "model: [1, 2]",
    "training: {batch_size: 2**31}", "data: {n_obs: -1}", "? ", "\t", "model: {n_genes: 99999999999999999999}", "%", "",
    "training: {learning_rate: .nan}", "data: {layer: ../../etc/passwd}", "training: {seed: 9223372036854775808}",
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b]\nmodel: [*c,*c,*c]", "\x00", "é: ü",
    "model: {num_heads: 0}", "model: {hidden_dim: 7, num_heads: 2}", "training: {num_epochs: true}", "data: null",
]  # fmt: skip
KINDS = [*CELLS, *DAMAGE, "hostile yaml"]


def write_case(recipe: dict, path: Path) -> list[str]:
    """The recipe's file at `path`, and the command's words."""
    rng = np.random.default_rng(recipe["seed"])
    adata = ad.read_h5ad(REAL)[:200].copy() if recipe["base"] == "real" else simulated()
    adata.obsm["X_given"] = rng.normal(size=(adata.n_obs, 5))
    words = COMMANDS[recipe["command"]]
    for kind in recipe["kinds"]:
        if kind in CELLS:
            changed = CELLS[kind](adata, rng)
            adata = adata if changed is None else changed
        if kind == "hostile yaml":
            path.with_name("config.yaml").write_text(str(rng.choice(HOSTILE_YAML)))
            words = ["prepare", "FILE", "--out", "out", "--config", str(path.with_name("config.yaml"))]
    adata.write_h5ad(path, **({} if rng.random() < 0.5 else {"compression": "gzip"}))
    for kind in recipe["kinds"]:
        if kind in DAMAGE and path.is_file():
            DAMAGE[kind](path, rng)
    return [str(path) if word == "FILE" else word for word in words]


def simulated() -> ad.AnnData:
    import scfm_lib as scfm

    return scfm.simulate(150, 200, n_types=3, n_batches=2, depth=300, seed=1)


def run_case(recipe: dict) -> dict:
    """`outcome`: "done", "refused" (one line, exit 2), or what went wrong; `said`: the end of standard error."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for part in ("in", "at"):
            (home / part).mkdir()
        try:
            words = write_case(recipe, home / "in" / "cells.h5ad")
        except Exception as error:  # two changes that cannot be written together, such as strings without a matrix
            return {"outcome": "cannot be written", "said": f"{type(error).__name__}: {error}"}
        before = sorted(home.rglob("*"))
        child = os.fork()
        if child == 0:
            in_child(words, home)
        status = wait_for(child)
        said = (home / "at" / ".stderr").read_text(errors="replace")
        left = sorted(set(home.rglob("*")) - set(before) - {home / "at" / ".stderr", home / "at" / ".stdout"})
        return {"outcome": judged(status, said, left, home), "said": said[-1500:], "words": words}


def in_child(words: list[str], home: Path) -> None:
    """The command, as if from a shell in the folder `at`."""
    code = 99
    try:
        os.setsid()
        os.chdir(home / "at")
        os.environ["SCFM_WORK_DIR"] = str(home / "at")
        for number, file in ((1, ".stdout"), (2, ".stderr")):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["scfm", *words]
        from scfm_lib.cli import main

        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(child: int) -> int | None:
    """The child's status; None if it took too long and was killed."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def judged(status: int | None, said: str, left: list[Path], home: Path) -> str:
    if status is None:
        return "HANGS"
    if os.WIFSIGNALED(status):
        return f"CRASHES (signal {os.WTERMSIG(status)})"
    code, lines = os.WEXITSTATUS(status), [line for line in re.split(r"[\n\r]", said) if line.strip()]
    outside = [path for path in left if not path.is_relative_to(home / "at")]
    if outside:
        return f"WRITES OUTSIDE ({outside[0].name})"
    if code == 0:
        return "done"
    if code != 2 or "Traceback" in said or not lines or not lines[-1].startswith(("error: ", "Usage", "Error")):
        return f"NO CLEAR LINE (exit {code})"
    if sum(line.startswith("error: ") for line in lines) > 1:
        return "MORE THAN ONE LINE"
    if any(path.name.startswith("out") for path in left):
        return "HALF-WRITTEN"
    return "refused"


def recipes(cases: int, seed: int) -> list[dict]:
    """Every kind in turn, alone or with another, on one of the commands."""
    rng = np.random.default_rng(seed)
    bases = ["simulated", "real"] if REAL.is_file() else ["simulated"]
    found = []
    for kind in itertools.islice(itertools.cycle(KINDS), cases):
        kinds = [kind] if rng.random() < 0.6 else [kind, str(rng.choice(KINDS))]
        command = str(rng.choice(list(COMMANDS), p=[0.5, 0.15, 0.15, 0.15, 0.05]))
        real = len(bases) > 1 and (command == "embed" or rng.random() < 0.3)  # the shipped model knows real genes
        found.append({"base": bases[real], "kinds": kinds, "command": command, "seed": int(rng.integers(2**31))})
    return found


def serve() -> None:
    """A recipe a line on standard input, its result a line on standard output."""
    prepare_to_fork()
    for line in sys.stdin:
        print(json.dumps(run_case(json.loads(line))), flush=True)


def prepare_to_fork() -> None:
    """Everything that a command loads, loaded; nothing computed, since threads do not survive a fork."""
    warnings.simplefilter("ignore")
    import scanpy  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch

    import scfm_lib.cli
    import scfm_lib.embed
    import scfm_lib.evaluate
    import scfm_lib.train  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    cases, seed = map(int, (sys.argv[1:] + ["500", "0"][len(sys.argv) - 1 :])[:2])
    prepare_to_fork()
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for number, recipe in enumerate(recipes(cases, seed)):
        found = run_case(recipe)
        counts[recipe["kinds"][0]][found["outcome"]] += 1
        if found["outcome"][0].isupper():
            print(f"{number}: {json.dumps(recipe)}\n{found['outcome']}\n{found['said'][-700:]}\n", flush=True)
    table = pd.DataFrame(counts).T.fillna(0).astype(int)
    table.loc["all"] = table.sum()
    print(table.to_string())


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
