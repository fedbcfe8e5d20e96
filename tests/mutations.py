"""Do the tests mean something? Plants an error in a copy of the library, twenty times, and runs fast tests on it.

    python tests/mutations.py [NAME ...]    prints a line for each; exit 1 if one is not found

Each error is one that would give wrong results without a word. Beside it stand the files of the fast suite that are
run on it: one failing test is enough, and the rest of the suite would only take longer.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTATIONS: list[tuple[str, str, str, str, str]] = [  # what is wrong, the file, its text, what is put there, the tests
    (
        "padding attends, genes do not", "model.py",
        "F.pad(is_token, (1, 0), value=True)", "F.pad(~is_token, (1, 0), value=True)", "test_model.py",
    ),
    (
        "the predicted half leaks into the input", "dataset.py",
        "values = log_normalise(both, ",
        "values = log_normalise(both + np.roll(both, count, axis=0), ",
        "test_dataset.py",
    ),
    (
        "the wrong library size of a half", "dataset.py",
        "store.library_size[cells] / 2", "store.library_size[cells]", "test_dataset.py",
    ),
    ("all molecules fall to half B", "data/coins.py", "in_b = count - in_a", "in_b = count", "test_dataset.py"),
    (
        "epochs are not shuffled", "dataset.py",
        "default_rng([self.seed, epoch]).permutation(self.cells.astype(np.uint32))",
        "default_rng([self.seed, 0]).permutation(self.cells.astype(np.uint32))", "test_dataset.py",
    ),
    (
        "held-out cells are trained on", "dataset.py",
        "np.flatnonzero(~self.store.held_out) if self._given is None",
        "np.arange(int((~self.store.held_out).sum())) if self._given is None", "test_dataset.py test_train.py",
    ),
    (
        "held-out cells choose the genes", "data/store.py",
        "use = keep & ~cells.held_out(config.data.validation_fraction, config.data.split_seed)", "use = keep",
        "data/test_store.py",
    ),
    (
        "held-out cells in the PCA start", "train.py",
        "pca_start(store, dataset.cells,", "pca_start(store, np.arange(len(store)),", "test_start.py test_train.py",
    ),
    (
        "a resumed run leaves out a step", "train.py",
        "sampler=range(state.step,",
        "sampler=range(state.step + 1,",
        "test_train.py",
    ),
    (
        "a resumed run forgets the optimizer", "checkpoint.py",
        'self.optimizer.load_state_dict(saved["optimizer"])', "pass", "test_train.py",
    ),
    (
        "a gradient is added twice", "runtime/threads.py",
        "weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)",
        "weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient).add_(gradient)",
        "runtime/test_coarse_threads.py",
    ),
    (
        "micro-batches weigh alike, however many molecules they have", "train.py",
        "prediction_loss(logits, batch.target_genes, batch.target_counts) / molecules",
        "prediction_loss(logits, batch.target_genes, batch.target_counts) / batch.molecules",
        "test_train.py runtime/test_coarse_threads.py",
    ),
    (
        "gradients are not clipped", "train.py",
        "clip_grad_norm_(weights, state.settings.max_grad_norm)",
        "clip_grad_norm_(weights, 1e9)",
        "test_train.py",
    ),
    (
        "biases and norms decay", "train.py",
        'for weight in others if weight.dim() >= 2], "weight_decay"',
        'for weight in others if weight.dim() >= 1], "weight_decay"',
        "test_train.py",
    ),
    (
        "patience keeps the worst epoch", "checkpoint.py",
        'held_out_loss < self.best["validation_loss"]', 'held_out_loss > self.best["validation_loss"]', "test_train.py",
    ),
    (
        "every process takes the same cells", "runtime/distributed.py",
        "micro_batches[self.rank :: self.world_size]",
        "micro_batches[0 :: self.world_size]",
        "runtime/test_distributed.py",
    ),
    (
        "a cell's vector depends on which genes are known", "embed.py",
        "log_normalise(chosen, np.asarray(counts.sum(1)).ravel())",
        "log_normalise(chosen, np.asarray(chosen.sum(1)).ravel())",
        "test_embed.py test_evaluate.py",
    ),
    (
        "probes learn the labels that they are judged on", "scores/probes.py",
        "_drawn(vectors, np.flatnonzero(learn))", "_drawn(vectors, np.flatnonzero(learn | judge))", "scores",
    ),
    (
        "renamed training cells count as held out", "data/seen.py",
        "return self.by_counts | self.by_names", "return self.by_names", "data/test_seen.py",
    ),
    (
        "baselines are fitted on held-out cells", "data/seen.py",
        "return either, ~either, count,", "return np.ones_like(either), ~either, count,", "data/test_seen.py",
    ),
]  # fmt: skip


def found(file: str, text: str, wrong: str, tests: str) -> tuple[bool, str]:
    """Whether a test fails with the error planted, and which."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("scfm_lib", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "data"):
            (copy / part).symlink_to(ROOT / part)
        target = copy / "scfm_lib" / file
        code = target.read_text(encoding="utf-8")
        assert code.count(text) == 1, f"{file} has {code.count(text)} times: {text}"
        target.write_text(code.replace(text, wrong), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        command += [str(copy / "tests" / test) for test in tests.split()]
        environment = os.environ | {"PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        failed = re.findall(r"^FAILED \S*?(\w+\.py::\w+)", done.stdout, flags=re.M)
        return done.returncode == 1 and bool(failed), ", ".join(failed) or done.stdout[-300:]


def main() -> None:
    missed = 0
    for what, *planted in MUTATIONS:
        if len(sys.argv) > 1 and not any(word in what for word in sys.argv[1:]):
            continue
        seen, by = found(*planted)
        missed += not seen
        print(f"{'found' if seen else 'MISSED'}: {what} ({by})", flush=True)
    print(f"{missed} missed" if missed else "all found")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
