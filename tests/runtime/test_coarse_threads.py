"""Coarse threads: the plain way's results, the same to the bit each time, and a clean end whatever happens."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

import scfm_lib as scfm
from scfm_lib.checkpoint import load_checkpoint
from scfm_lib.dataset import HalfCells
from scfm_lib.runtime.threads import Threads, threads_for
from scfm_lib.start import new_model
from scfm_lib.train import new_state, training_step, validation_loss

CPU = torch.device("cpu")


def steps(store, tiny, count: int, number: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and norms of some steps, and the weights after them."""
    data = HalfCells(store, None, 32, 0, token_share=0.5)
    state = new_state(new_model(tiny.model, 0, genes=len(store.symbols)), tiny.training, CPU)
    found = []
    with Threads(count) as state.threads:
        for step in range(number):
            found += map(float, training_step(state, data[step].split(2), 1e-3))
        found.append(validation_loss(state, store))
    return found, state.model.state_dict()


def test_they_agree_with_the_plain_way_and_with_themselves_to_the_bit(cells, tiny, tmp_path) -> None:
    store = scfm.prepare(cells, tiny, tmp_path / "store")
    (plain, weights), (coarse, theirs), (again, once_more) = (steps(store, tiny, count) for count in (1, 3, 3))
    np.testing.assert_allclose(coarse, plain, rtol=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-4)
        assert torch.equal(theirs[name], once_more[name])
    assert coarse == again
    assert coarse != plain or any(not torch.equal(theirs[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_goes_on_with_its_number_of_threads_equal_to_the_bit(cells, tiny, tmp_path, count) -> None:
    tiny.training.threads = count
    whole = scfm.train(tiny, cells, run_dir=tmp_path / "whole", verbose=False)
    part = scfm.train(tiny, cells, run_dir=tmp_path / "part", verbose=False, max_steps=11)
    saved = load_checkpoint(part.checkpoint)
    assert saved["threads"] == count
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)  # as on a machine with other cores
        resumed = scfm.train(resume=part.dir, verbose=False)
    finally:
        torch.set_num_threads(before)
    assert load_checkpoint(resumed.checkpoint)["threads"] == count
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    if count > 1:
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    else:
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


def test_vectors_do_not_depend_on_threads(trained, cells) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(scfm.embed(trained.model, cells, batch_size=16))
            assert torch.get_num_threads() == count  # what was set is as it was
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_results_come_in_order_and_items_are_taken_as_needed() -> None:
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    def slowly(number: int) -> int:
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number

    with Threads(2) as threads:
        results = threads.map(slowly, items())
        assert next(results) == 0
        assert len(taken) <= 4
        assert list(results) == list(range(1, 50))


def test_an_exception_in_a_thread_ends_the_step_when_the_others_are_done() -> None:
    running: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("the second")
        running.append(number)
        time.sleep(0.1)
        running.remove(number)

    with Threads(2) as threads:
        with pytest.raises(ValueError, match="the second"):
            list(threads.map(work, range(9)))
        assert not running  # nobody works on behind the caller's back
        assert list(threads.map(abs, [-1, -2])) == [1, 2]  # and the threads can be used again
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scfm")]


def test_ctrl_c_ends_the_step_when_the_threads_are_done() -> None:
    running: list[int] = []
    done: list[int] = []

    def work(number: int) -> None:
        running.append(number)
        time.sleep(0.1 if number else 0.5)  # the first is waited for when Ctrl-C comes, and ends after the others
        running.remove(number)
        done.append(number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with Threads(2) as threads:
            threading.Timer(0.25, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                list(threads.map(work, range(100)))
            assert not running
            assert 0 in done
            assert len(done) < 10
    finally:
        signal.signal(signal.SIGINT, before)


def test_how_many() -> None:
    assert threads_for(CPU) == torch.get_num_threads()
    assert threads_for(CPU, wanted=5) == 5
    assert threads_for(CPU, dropout=0.1, wanted=5) == 1  # random numbers would come in any order
    assert threads_for(torch.device("cuda"), wanted=5) == 1
