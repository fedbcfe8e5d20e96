import importlib
import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scfm_lib as scfm
from scfm_lib.checkpoint import checkpoint_config, find_checkpoint, load_checkpoint
from scfm_lib.data.read import held_out
from scfm_lib.dataset import HalfCells
from scfm_lib.errors import DivergedError
from scfm_lib.model import prediction_loss
from scfm_lib.runtime.logger import read_metrics
from scfm_lib.start import new_model, pca_start
from scfm_lib.train import BAG_RATE, learning_rate, new_optimizer, new_state, training_step, validation_loss

CPU = torch.device("cpu")


def weights(run: scfm.Run) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(cells, tiny, tmp_path, dropout) -> None:
    tiny.model.dropout = dropout
    whole = scfm.train(tiny, cells, run_dir=tmp_path / "whole", verbose=False)
    part = scfm.train(tiny, cells, run_dir=tmp_path / "part", verbose=False, max_steps=11)
    assert (part.step, part.finished) == (11, False)
    torch.rand(7)  # whatever the process did in between
    resumed = scfm.train(resume=part.dir, verbose=False)
    assert resumed.finished
    assert resumed.step == whole.step == 24
    assert not same(weights(part), weights(whole))
    assert same(weights(resumed), weights(whole))
    ours, theirs = (load_checkpoint(run.checkpoint)["optimizer"] for run in (resumed, whole))
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys() != set()
    assert all(same(ours["state"][key], theirs["state"][key]) for key in ours["state"])
    assert set(ours["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    losses = [[row["validation_loss"] for row in run.history if "validation_loss" in row] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_the_same_seed_gives_the_same_run_and_another_seed_another(cells, tiny, tmp_path) -> None:
    first, second = (scfm.train(tiny, cells, run_dir=tmp_path / name, verbose=False) for name in "ab")
    tiny.training.seed = 1
    third = scfm.train(tiny, cells, run_dir=tmp_path / "c", verbose=False)
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(third))


def test_accumulated_micro_batches_are_one_big_batch(cells, tiny, tmp_path) -> None:
    big = scfm.train(tiny, cells, run_dir=tmp_path / "big", verbose=False)
    tiny.training.batch_size, tiny.training.gradient_accumulation_steps = 8, 4
    small = scfm.train(tiny, cells, run_dir=tmp_path / "small", verbose=False)
    assert big.step == small.step
    for key, value in weights(big).items():
        torch.testing.assert_close(weights(small)[key], value, rtol=2e-3, atol=2e-4)
    assert small.history[-1] == pytest.approx(big.history[-1], rel=1e-4)


def test_every_weight_is_in_one_group(tiny) -> None:
    model = new_model(tiny.model, 0, genes=100)
    names = {weight: name for name, weight in model.named_parameters()}
    groups = new_optimizer(model, tiny.training, CPU).param_groups
    tables, vectors, bag = ({names[weight] for weight in group["params"]} for group in groups)
    assert len(tables) + len(vectors) + len(bag) == len(names)
    assert tables | vectors | bag == set(names.values())
    assert [group["lr_scale"] for group in groups] == [1, 1, BAG_RATE]
    assert [group["weight_decay"] for group in groups] == [tiny.training.weight_decay, 0, tiny.training.weight_decay]
    assert bag == {"bag_embedding"}
    assert {"gene_embedding", "output_embedding", "bag_to_cell.weight", "blocks.0.qkv.weight"} < tables
    assert {"cell_token", "output_bias", "norm.weight", "blocks.0.qkv.bias"} < vectors


def test_a_step_takes_each_weight_at_its_own_rate(cells, tiny, tmp_path) -> None:
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    tiny.training.weight_decay = 0.0
    state = new_state(new_model(tiny.model, 0, genes=len(store.symbols)), tiny.training, CPU)
    before = {name: weight.detach().clone() for name, weight in state.model.named_parameters()}
    training_step(state, [HalfCells(store, np.arange(len(store)), 32, 0)[0]], 0.001)
    longest = {name: (after - before[name]).abs().max().item() for name, after in state.model.named_parameters()}
    assert longest["bag_embedding"] == pytest.approx(BAG_RATE * 0.001, rel=0.05)  # AdamW's first step is its rate
    for name in ("gene_embedding", "blocks.0.qkv.weight", "output_bias"):
        assert longest[name] == pytest.approx(0.001, rel=0.05)


def test_it_learns(trained) -> None:
    held_out = [row["validation_loss"] for row in trained.history if "validation_loss" in row]
    assert held_out[-1] < held_out[0] - 0.05
    shares = load_checkpoint(trained.checkpoint)["start"]["log_share"].exp()
    store = scfm.open_store(trained.dir / "store")
    counts = store.matrix(np.flatnonzero(store.held_out)).toarray()
    knowing_no_cell = -(counts * shares.log().numpy()).sum() / counts.sum()
    assert held_out[-1] < knowing_no_cell - 0.05


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint_to_go_on_from(cells, tiny, tmp_path, number) -> None:
    tiny.training.num_epochs = 10_000

    def send_when_running() -> None:
        while not (tmp_path / "run" / "metrics.jsonl").exists() or not read_metrics(tmp_path / "run" / "metrics.jsonl"):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=send_when_running)
    thread.start()
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    thread.join()
    assert run.signal == number
    assert not run.finished
    assert load_checkpoint(run.dir)["step"] == run.step
    assert signal.getsignal(number) == before


def test_checkpoints_come_by_step_and_minute_and_the_last_are_kept(cells, tiny, tmp_path) -> None:
    tiny.training.checkpoint_every_steps, tiny.training.keep_checkpoints = 4, 2
    run = scfm.train(tiny, cells, run_dir=tmp_path / "steps", verbose=False)
    names = sorted(p.name for p in (run.dir / "checkpoints").iterdir())
    assert names == ["checkpoint_step_20.pt", "checkpoint_step_24.pt"]
    assert find_checkpoint(run.dir).name == "checkpoint_step_24.pt"
    tiny.training.checkpoint_every_steps, tiny.training.keep_checkpoints = 1000, 100
    tiny.training.checkpoint_every_minutes = 1e-9
    run = scfm.train(tiny, cells, run_dir=tmp_path / "minutes", verbose=False)
    assert len(list((run.dir / "checkpoints").iterdir())) == 25


def test_a_run_folder_tells_the_whole_story(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    names = {".scfm-lock", ".scfm-run", "config.yaml", "checkpoints", "logs", "metrics.jsonl", "store"}
    assert {p.name for p in run.dir.iterdir()} == names
    assert scfm.load_config(run.dir / "config.yaml") == run.config
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    assert rows == run.history
    assert {"step", "epoch", "loss", "learning_rate", "grad_norm", "cells_per_second"} < rows[0].keys()
    assert 0 <= rows[0]["data_seconds"] <= rows[0]["step_seconds"]
    assert any(p.name.startswith("events.out.tfevents") for p in (run.dir / "logs").iterdir())
    assert load_checkpoint(run.dir)["versions"]["torch"] == torch.__version__


def test_the_loss_that_is_told_is_a_mean_over_molecules_as_on_held_out_cells(cells, tiny, tmp_path) -> None:
    tiny.training.num_epochs, tiny.training.learning_rate, tiny.training.log_every_steps = 1, 1e-12, 1000
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False, tensorboard=False)
    store = scfm.open_store(run.dir / "store")
    settings = tiny.training
    batches = HalfCells(store, None, settings.batch_size, settings.seed, settings.token_share)
    nats, molecules = 0.0, []
    with torch.inference_mode():
        for batch in (batches[step] for step in range(len(batches))):
            logits = run.model(batch.genes, batch.values, batch.most_tokens)
            nats += float(prediction_loss(logits, batch.target_genes, batch.target_counts))
            molecules.append(float(batch.molecules))
    assert max(molecules) > 1.5 * min(molecules)  # else a mean over steps would be the same
    assert run.last_losses()["loss"] == pytest.approx(nats / sum(molecules), rel=1e-5)


def test_metrics_after_the_checkpoint_are_dropped_on_resume(cells, tiny, tmp_path) -> None:
    tiny.training.checkpoint_every_steps, tiny.training.keep_checkpoints = 7, 10
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    with (run.dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 24, "lo')  # a crash in the middle of a line
    resumed = scfm.train(resume=run.dir / "checkpoints" / "checkpoint_step_7.pt", verbose=False)
    steps = [row["step"] for row in read_metrics(run.dir / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert steps.count(24) == 2  # its loss and its validation loss, once
    assert same(weights(resumed), weights(run))


def test_a_prepared_store_trains_the_same_and_is_found_again(cells, tiny, tmp_path) -> None:
    direct = scfm.train(tiny, cells, run_dir=tmp_path / "direct", verbose=False)
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    run = scfm.train(tiny, store.dir, run_dir=tmp_path / "run", verbose=False, max_steps=9)
    assert not (run.dir / "store").exists()
    assert same(weights(scfm.train(resume=run.dir, verbose=False)), weights(direct))


def test_a_store_split_otherwise_keeps_its_own_split(cells, tiny, tmp_path) -> None:
    """Evaluation reads the split from the checkpoint: it must be the one that training used."""
    tiny.data.split_seed = 7
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    tiny.data.split_seed, tiny.data.validation_fraction, tiny.training.seed = 0, 0.0, 3
    run = scfm.train(tiny, store.dir, run_dir=tmp_path / "run", verbose=False)
    data = checkpoint_config(load_checkpoint(run.dir)).data
    judged = held_out(cells.obs_names, data.validation_fraction, data.split_seed)
    np.testing.assert_array_equal(judged, store.held_out)


def test_diverging_is_said_with_its_first_step_its_batch_and_the_last_good_checkpoint(cells, tiny, tmp_path) -> None:
    tiny.training.learning_rate, tiny.training.warmup_fraction = 1e30, 0
    with pytest.raises(
        DivergedError, match=r"loss is nan at step 2: .* --init .*checkpoint_step_0\.pt --set"
    ) as raised:
        scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    kept = torch.load(tmp_path / "run" / "diverged.pt", weights_only=True)
    assert (kept["step"], kept["learning_rate"]) == (raised.value.step, pytest.approx(1e30))
    store = scfm.open_store(tmp_path / "run" / "store")
    assert torch.equal(kept["cells"], HalfCells(store, None, tiny.training.batch_size, tiny.training.seed)[1].cells)


def test_weights_that_are_no_numbers_are_never_saved_as_a_good_checkpoint(cells, tiny, tmp_path, monkeypatch) -> None:
    """A step's loss is taken before its update, so the loss of the last step before a checkpoint tells nothing."""
    module, taken = importlib.import_module("scfm_lib.train"), []

    def broken(state, *others):
        found = training_step(state, *others)
        taken.append(state.step)
        if len(taken) == 14:
            state.model.norm.bias.data[3] = float("nan")
        return found

    monkeypatch.setattr(module, "training_step", broken)
    tiny.training.checkpoint_every_steps = 7
    with pytest.raises(DivergedError, match=r"a weight is not a finite number after step 14: .*checkpoint_step_7\.pt"):
        scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    newest = find_checkpoint(tmp_path / "run")
    assert newest.name == "checkpoint_step_7.pt"
    assert all(weight.isfinite().all() for weight in load_checkpoint(newest)["model"].values())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_a_checkpoint_is_as_readable_as_other_new_files(trained, tmp_path) -> None:
    (tmp_path / "other").touch()
    assert trained.checkpoint.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_wrong_calls(cells, tiny, tmp_path) -> None:
    with pytest.raises(scfm.InputError, match="nothing to learn from"):
        scfm.train(tiny)
    with pytest.raises(scfm.InputError, match="device 'tpu' is not known"):
        scfm.train(tiny, cells, device="tpu")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(scfm.InputError, match="is not empty; continue it with --resume"):
        scfm.train(tiny, cells, run_dir=tmp_path / "run")
    with pytest.raises(scfm.InputError, match="there is no checkpoint"):
        scfm.train(resume=tmp_path / "run")
    tiny.training.fp16 = True
    with pytest.raises(scfm.InputError, match="fp16 needs a GPU"):
        scfm.train(tiny, cells, device="cpu", run_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_failed_preparation_leaves_no_run_folder(cells, tiny, tmp_path) -> None:
    tiny.data.preprocessing.min_genes = 10_000
    with pytest.raises(scfm.InputError, match="no cell expresses"):
        scfm.train(tiny, cells, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bf16_and_gradient_checkpointing_train(cells, tiny, tmp_path) -> None:
    tiny.training.bf16 = True
    tiny.training.gradient_checkpointing = True
    tiny.training.num_workers = 1
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    assert np.isfinite(run.history[-1]["validation_loss"])


def test_the_schedule_rises_and_falls() -> None:
    settings = scfm.load_config("minimal").training
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == pytest.approx(settings.learning_rate)
    assert rates[0] == pytest.approx(settings.learning_rate / 10)
    assert rates[-1] < 0.03 * settings.learning_rate


def test_weights_and_biases_offline(tiny, cells, tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (pip install '.[test]')")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", max_steps=10, wandb=True, verbose=False)
    scfm.train(resume=run.checkpoint, max_steps=15, wandb=True, verbose=False)
    written = list((run.dir / "wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 2
    names = (b"grad_norm", b"learning_rate", b"cells_per_second")  # one may be cut in two by the file's blocks
    end = time.monotonic() + 30  # its own process writes, and goes on after it said it had finished
    while not all(any(name in file.read_bytes() for name in names) for file in written):
        assert time.monotonic() < end, {file: file.stat().st_size for file in written}
        time.sleep(0.1)
    assert len({file.name for file in written}) == 1  # the same run, as its id says


def test_a_run_goes_on_with_its_store_alone(trained, cells, tmp_path) -> None:
    cells.write_h5ad(tmp_path / "other.h5ad")
    for data, named in ((cells, "AnnData of 300 cells"), (tmp_path / "other.h5ad", "other.h5ad"), ("pbmc3k", "pbmc3k")):
        with pytest.raises(scfm.InputError, match=f"not .*{named}; leave the data out"):
            scfm.train(data=data, resume=trained.dir, verbose=False)


def test_patience_keeps_the_best_epoch_and_resumes_as_ended(tiny, cells, tmp_path, capsys) -> None:
    tiny.training.num_epochs, tiny.training.patience, tiny.training.learning_rate = 40, 2, 0.02
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run")
    losses = [row["validation_loss"] for row in run.history if "validation_loss" in row]
    assert run.finished
    assert len(losses) < 40
    assert int(np.argmin(losses)) == len(losses) - 3  # two epochs were waited for a lower one
    assert "no lower for 1 of 2 epochs" in capsys.readouterr().err
    kept = scfm.load_model(run.dir)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), run.model.parameters(), strict=True))
    store = scfm.open_store(run.dir / "store")
    here = validation_loss(new_state(kept, tiny.training, CPU), store)
    assert here == pytest.approx(min(losses), rel=1e-6)
    shared = scfm.load_model(scfm.save_pretrained(run, tmp_path / "shared"))
    assert all(torch.equal(a, b) for a, b in zip(shared.parameters(), run.model.parameters(), strict=True))
    again = scfm.train(resume=run.dir, verbose=False)
    assert (again.finished, again.step) == (True, run.step)


def test_patience_is_remembered_over_a_resume(tiny, cells, tmp_path) -> None:
    tiny.training.num_epochs, tiny.training.patience, tiny.training.learning_rate = 40, 2, 0.02
    whole = scfm.train(tiny, cells, run_dir=tmp_path / "whole", verbose=False)
    scfm.train(tiny, cells, run_dir=tmp_path / "parts", verbose=False, max_steps=whole.step - 5)
    rest = scfm.train(resume=tmp_path / "parts", verbose=False)
    assert rest.step == whole.step
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True))


def test_held_out_cells_touch_neither_genes_nor_start_nor_weights(cells, tiny, tmp_path) -> None:
    others = cells.copy()
    out = held_out(cells.obs_names, tiny.data.validation_fraction, tiny.data.split_seed)
    counts = cells.X.toarray()
    counts[out] = np.random.default_rng(0).poisson(3, (out.sum(), cells.n_vars))[:, ::-1]  # of the same names
    others.X = sp.csr_matrix(counts)
    states = []
    for number, data in enumerate((cells, others)):
        run = scfm.train(tiny, data, run_dir=tmp_path / f"run {number}", verbose=False)
        assert scfm.open_store(run.dir / "store").held_out.sum() == out.sum() > 40
        states.append(torch.load(run.checkpoint, weights_only=True))
        states[-1]["losses"] = [row["validation_loss"] for row in run.history if "validation_loss" in row]
    assert states[0]["symbols"] == states[1]["symbols"]
    for part in ("start", "model"):
        for name, tensor in states[0][part].items():
            torch.testing.assert_close(tensor, states[1][part][name], rtol=0, atol=0)
    assert states[0]["losses"] != states[1]["losses"]  # they are looked at, and only there


def test_gradients_are_clipped_before_the_optimizer_sees_them(tiny, cells, tmp_path) -> None:
    store = scfm.prepare(cells, tiny, tmp_path / "store")
    tiny.training.max_grad_norm = 0.01
    tiny.model.n_genes = store.n_tokens
    start = pca_start(store, np.flatnonzero(~store.held_out), tiny.model.gene_embedding_dim, 0)
    state, seen = new_state(new_model(tiny.model, 0, start), tiny.training, CPU), []

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [weight.grad.norm() for group in optimizer.param_groups for weight in group["params"]]
        seen.append(float(torch.stack(gradients).norm()))

    state.optimizer.register_step_pre_hook(look)
    _, before = training_step(state, [HalfCells(store, None, 32, 0)[0]], 1e-3)
    assert before > 0.1
    assert seen == [pytest.approx(0.01, rel=1e-3)]
