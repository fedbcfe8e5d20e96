import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import scfm_lib as scfm
from scfm_lib.data.read import held_out
from scfm_lib.start import pca_start


def test_the_store_holds_the_counts_of_its_genes(cells, tiny, tmp_path) -> None:
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    assert len(store) == 300
    columns = [cells.var_names.get_loc(symbol) for symbol in store.symbols]
    assert store.n_tokens == 60 < len(columns)
    some = np.array([5, 299, 5, 0])
    np.testing.assert_array_equal(store.matrix(some).toarray(), cells.X.toarray()[some][:, columns])
    np.testing.assert_array_equal(store.library_size, cells.X.toarray().sum(1))
    np.testing.assert_array_equal(store.held_out, held_out(cells.obs_names, 0.2, 0))
    meta = json.loads((tmp_path / "store" / "store.json").read_text())
    assert {"config", "versions", "sources"} <= meta.keys()


def test_tokens_come_first_and_every_gene_seen_in_enough_training_cells_is_heard(cells, tiny, tmp_path) -> None:
    import scanpy as sc

    counts = cells.X.toarray()
    learn = ~held_out(cells.obs_names, 0.2, 0)
    counts[:, 5], counts[:, 6], counts[:, 7] = 0, 0, 0
    counts[np.flatnonzero(learn)[:2], 5] = 9  # seen in 2 training cells: too few
    counts[np.flatnonzero(learn)[:3], 6] = 1  # in 3: enough
    counts[~learn, 7] = 9  # in held-out cells alone
    tiny.data.preprocessing.min_cells = 3
    store = scfm.prepare([_with(cells, counts)], tiny, tmp_path / "store")
    seen = (counts[learn] > 0).sum(0) >= 3
    assert not seen[5]
    assert not seen[7]
    train = _with(cells, counts)[learn][:, seen].copy()
    sc.pp.highly_variable_genes(train, flavor="seurat_v3", n_top_genes=60)
    tokens = train.var_names[train.var["highly_variable"]].tolist()
    others = train.var_names[~train.var["highly_variable"]].tolist()
    assert store.symbols.tolist() == tokens + others
    assert cells.var_names[6] in store.symbols
    assert scfm.open_store(store.dir).n_tokens == store.n_tokens == len(tokens) == 60
    assert any(f"{seen.sum()} genes are read and predicted; tokens are the 60" in line for line in store.report)
    genes, _, lengths = store.rows(np.arange(len(store)))
    assert all((np.diff(row.astype(int)) > 0).all() for row in np.split(genes, np.cumsum(lengths)[:-1]))


def test_where_numbers_run_out_the_genes_seen_in_fewest_cells_are_left_out(cells, tiny, tmp_path, monkeypatch) -> None:
    from scfm_lib.data import store as module

    whole = scfm.prepare([cells], tiny, tmp_path / "whole")
    monkeypatch.setattr(module, "MOST_GENES", 70)
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    assert store.symbols[:60].tolist() == whole.symbols[:60].tolist()
    learn = ~held_out(cells.obs_names, 0.2, 0)
    seen_in = dict(zip(cells.var_names, (cells.X.toarray()[learn] > 0).sum(0), strict=True))
    left_out = set(whole.symbols) - set(store.symbols)
    assert len(store.symbols) == 70
    assert max(seen_in[gene] for gene in left_out) <= min(seen_in[gene] for gene in store.symbols[60:])
    assert any("of the genes seen in fewest cells are left out" in line for line in store.report)


def test_a_file_that_is_given_twice_is_refused(cells, tiny, tmp_path) -> None:
    cells.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(scfm.InputError, match=r"a\.h5ad is given twice, .*; give each file once"):
        scfm.prepare([tmp_path / "a.h5ad", tmp_path / "." / "a.h5ad"], tiny, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_store_of_an_older_format_is_refused(cells, tiny, tmp_path) -> None:
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    meta = json.loads((store.dir / "store.json").read_text())
    del meta["n_tokens"]
    (store.dir / "store.json").write_text(json.dumps(meta))
    with pytest.raises(scfm.InputError, match="of an older format, without n_tokens; prepare it again"):
        scfm.open_store(store.dir)


def test_no_held_out_cell_touches_vocabulary_or_start(cells, tiny, tmp_path) -> None:
    unseen = held_out(cells.obs_names, 0.2, 0)
    assert 20 < unseen.sum() < 120
    honest = scfm.prepare([cells], tiny, tmp_path / "honest")
    counts = cells.X.toarray()
    rng = np.random.default_rng(0)
    counts[unseen] = rng.permuted(counts[unseen] * rng.integers(1, 50, counts[unseen].shape), axis=1) + 1
    spoiled = scfm.prepare([_with(cells, counts)], tiny, tmp_path / "spoiled")
    assert honest.symbols.tolist() == spoiled.symbols.tolist()
    starts = [pca_start(s, np.flatnonzero(~s.held_out), 8, 0) for s in (honest, spoiled)]
    assert starts[0].keys() == {"components", "spread", "centre", "log_share", "batch_offset"}
    for key in starts[0]:
        np.testing.assert_array_equal(starts[0][key], starts[1][key])

    counts[~unseen] = rng.permuted(counts[~unseen], axis=1)  # the check itself can fail
    assert scfm.prepare([_with(cells, counts)], tiny, tmp_path / "all").symbols.tolist() != honest.symbols.tolist()


def _with(cells, counts):
    cells = cells.copy()
    cells.X = sp.csr_matrix(counts.astype("f4"))
    return cells


def test_several_data_sets_are_aligned_by_gene_and_reported(cells, tiny, tmp_path) -> None:
    other = cells[:150, ::-1].copy()
    other = other[:, 20:].copy()
    store = scfm.prepare([cells, other], tiny, tmp_path / "store")
    assert np.bincount(store.dataset).tolist() == [300, 150]
    first, second = store.matrix(np.arange(150)), store.matrix(np.arange(300, 450))
    np.testing.assert_array_equal(first.toarray(), second.toarray())
    assert any("100 of 120 genes matched, 20 not" in line for line in store.report)


def test_subsampling_takes_what_was_asked_and_says_when_there_are_fewer(cells, tiny, tmp_path) -> None:
    tiny.data.n_obs = 100
    store = scfm.prepare([cells], tiny, tmp_path / "few")
    assert len(store) == 100
    assert any("100 of 300 cells taken at random" in line for line in store.report)
    tiny.data.n_obs = 10_000
    store = scfm.prepare([cells], tiny, tmp_path / "all")
    assert len(store) == 300
    assert any("not fewer than the 300 cells" in line for line in store.report)


def test_quality_control(cells, tiny, tmp_path) -> None:
    expressed = (cells.X.toarray() > 0).sum(1)
    tiny.data.preprocessing.min_genes = int(np.median(expressed))
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    assert len(store) == (expressed >= np.median(expressed)).sum() < 300
    cells.var_names = [f"MT-{g}" if g < 10 else f"G{g}" for g in range(120)]
    tiny.data.preprocessing.min_genes = 1
    tiny.data.preprocessing.max_mito_percent = 5
    counts = cells.X.toarray()
    share = counts[:, :10].sum(1) / counts.sum(1)
    assert len(scfm.prepare([cells], tiny, tmp_path / "mito")) == (share <= 0.05).sum() < 300
    tiny.data.preprocessing.min_genes = 121
    with pytest.raises(scfm.InputError, match="no cell expresses 121 genes"):
        scfm.prepare([cells], tiny, tmp_path / "none")


def test_fewer_genes_than_asked_is_said_loudly(cells, tiny, tmp_path) -> None:
    tiny.model.n_genes = 500
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    assert store.n_tokens == len(store.symbols) <= 120
    assert any(line.startswith("FEWER TOKENS: the config asks for 500, ") for line in store.report)


def test_an_existing_or_damaged_store_is_left_alone(cells, tiny, tmp_path) -> None:
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    with pytest.raises(scfm.InputError, match="exists and is left as it is"):
        scfm.prepare([cells], tiny, tmp_path / "store")
    (store.dir / "genes.bin").write_bytes(b"1234")
    with pytest.raises(scfm.InputError, match=r"damaged: genes\.bin has the wrong size"):
        scfm.open_store(store.dir)
    with pytest.raises(scfm.InputError, match="not a store made by"):
        scfm.open_store(tmp_path)


def test_no_flipped_bit_of_a_store_is_overlooked(cells, tiny, tmp_path) -> None:
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    rng = np.random.default_rng(0)
    files = sorted(store.dir.glob("*.bin"))
    assert len(files) == 10
    for file in files:
        whole = file.read_bytes()
        place = int(rng.integers(len(whole)))
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        with pytest.raises(scfm.InputError, match=f"{file.name} is not what was written; prepare it again"):
            scfm.open_store(store.dir)
        file.write_bytes(whole)
    assert len(scfm.open_store(store.dir)) == len(store)


def test_real_cells(zheng, tmp_path) -> None:
    store = scfm.prepare([zheng], scfm.load_config("minimal"), tmp_path / "store")
    assert len(store) == 3874
    assert 80 < (store.genes < store.n_tokens).sum() / len(store) < 110  # of 1,000: why only expressed ones are tokens
    assert len(store.symbols) > 10_000
    heard = len(store.genes) / len(store)
    assert sum(f.stat().st_size for f in store.dir.glob("*.bin")) < (6 * heard + 32) * len(store)


def with_mitochondria(cells, names: list[str]) -> None:
    """The first genes get these names, and the first 50 cells most of their molecules from them."""
    counts = cells.X.toarray()
    counts[:50, : len(names)] += 1000
    cells.X = sp.csr_matrix(counts)
    cells.var_names = [*names, *cells.var_names[len(names) :]]


@pytest.mark.parametrize(
    "names", [["MT-CO1", "MT-ND1"], ["mt-Co1", "mt-Nd1"], ["ENSG00000198804", "ENSG00000198888.2"]]
)
def test_mitochondrial_genes_are_found_by_symbol_and_by_ensembl_id(cells, tiny, tmp_path, names) -> None:
    if names[0].startswith("ENS"):
        cells.var_names = [f"ENSG{number:011d}" for number in range(cells.n_vars)]
    with_mitochondria(cells, names)
    tiny.data.preprocessing.max_mito_percent = 40
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    assert len(store) == 250
    assert any("50 cells left out: more than 40 % mitochondrial (max_mito_percent)" in line for line in store.report)
    assert not any("min_genes" in line for line in store.report)


def test_a_rule_on_mitochondria_that_finds_none_says_so(cells, tiny, tmp_path) -> None:
    tiny.data.preprocessing.max_mito_percent = 5
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    assert any("NO MITOCHONDRIAL GENES" in line for line in store.report)


def test_each_rule_of_quality_control_reports_its_own(cells, tiny, tmp_path) -> None:
    with_mitochondria(cells, ["MT-CO1"])
    counts = cells.X.toarray()
    counts[100:130, 4:], counts[100:130, 1] = 0, 1
    cells.X = sp.csr_matrix(counts)
    tiny.data.preprocessing.max_mito_percent = 40
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    assert any("30 cells left out: fewer than 5 genes (min_genes)" in line for line in store.report)
    assert any("50 cells left out: more than 40 %" in line for line in store.report)


def test_several_data_sets_in_memory_can_be_told_apart(cells, tiny, tmp_path) -> None:
    store = scfm.prepare([cells[:150], cells[150:]], tiny, tmp_path / "store")
    assert store.report[0].startswith("adata 1: 150 cells")
    assert store.report[1].startswith("adata 2: 150 cells")


def test_one_data_set_needs_no_list_and_none_is_refused(cells, tiny, tmp_path) -> None:
    assert len(scfm.prepare(cells, tiny, tmp_path / "store")) == 300
    with pytest.raises(scfm.InputError, match="no data set"):
        scfm.prepare([], tiny, tmp_path / "none")


def test_when_mitochondria_leave_no_cell_the_error_says_so(cells, tiny, tmp_path) -> None:
    with_mitochondria(cells, ["MT-CO1"])
    tiny.data.preprocessing.max_mito_percent = 40
    with pytest.raises(scfm.InputError, match="50 cells left out: more than 40 % mitochondrial"):
        scfm.prepare([cells[:50]], tiny, tmp_path / "store")


def test_genes_that_must_be_tokens_are(tiny, cells, tmp_path) -> None:
    plain = scfm.prepare(cells, tiny, tmp_path / "plain")
    left_out = [str(gene) for gene in plain.symbols[plain.n_tokens :][:3]]
    tiny.data.preprocessing.must_include = [gene.lower() for gene in left_out]
    store = scfm.prepare(cells, tiny, tmp_path / "forced")
    tokens = set(store.symbols[: store.n_tokens])
    assert tokens >= set(left_out)
    assert store.n_tokens <= plain.n_tokens
    assert len(tokens & set(plain.symbols[: plain.n_tokens])) >= store.n_tokens - 3
    assert set(store.symbols) == set(plain.symbols)
    tiny.data.preprocessing.must_include = ["GENE1O"]
    with pytest.raises(scfm.InputError, match="gene 'GENE1O' is not in the data; write 'GENE1"):
        scfm.prepare(cells, tiny, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_batches_are_stored_and_refused_where_there_are_none(tiny, cells, tmp_path) -> None:
    tiny.data.batch_key = "batch"
    store = scfm.prepare(cells, tiny, tmp_path / "store")
    assert store.batches == sorted(cells.obs["batch"].astype(str).unique())
    np.testing.assert_array_equal(np.array(store.batches)[store.batch], cells.obs["batch"].astype(str))
    tiny.data.batch_key = "donor"
    with pytest.raises(scfm.InputError, match=r"no column 'donor'; choose data.batch_key from: cell_type, batch"):
        scfm.prepare(cells, tiny, tmp_path / "other")
    cells.obs["donor"] = "d1"
    with pytest.raises(scfm.InputError, match=r"has one batch \(d1\)"):
        scfm.prepare(cells, tiny, tmp_path / "other")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_that_were_read_are_given_back(cells, tiny, tmp_path) -> None:
    def of_files() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))

    store = scfm.prepare([cells], tiny, tmp_path / "store")
    np.arange(2**23, dtype=np.uint32).tofile(tmp_path / "counts.bin")  # 32 MiB
    store = replace(store, counts=np.memmap(tmp_path / "counts.bin", np.uint32, "r"))
    before, total = of_files(), store.counts.sum(dtype=np.int64)
    read = of_files() - before
    assert read > 20e6
    store.let_go()
    assert of_files() - before < 0.2 * read
    assert store.counts.sum(dtype=np.int64) == total == 2**22 * (2**23 - 1)
    store.let_go()
    replace(store, counts=np.array(store.counts[:10])).let_go()  # in memory: nothing to give back


@pytest.mark.skipif(not hasattr(mmap, "MADV_RANDOM"), reason="the system cannot be told")
@pytest.mark.parametrize(("available", "told"), [(1000, True), (10**12, False)])
def test_only_a_store_larger_than_the_memory_is_read_at_random(cells, tiny, tmp_path, monkeypatch, available, told):
    advice: list[str] = []
    monkeypatch.setattr("scfm_lib.data.store._advise", lambda _, what: advice.append(what))
    monkeypatch.setattr("scfm_lib.data.store.memory", lambda: {"available": available})
    scfm.prepare([cells], tiny, tmp_path / "store")
    assert advice == 2 * told * ["MADV_RANDOM"]


@pytest.mark.parametrize("few", [1, 2, 5])
def test_a_tiny_second_data_set_has_no_say_in_which_genes_vary(cells, tiny, tmp_path, few) -> None:
    """Of one cell no gene varies, and scanpy's loess ends the process."""
    second = scfm.simulate(few, 120, n_types=1, depth=300, seed=2)
    second.obs_names = [f"second {number}" for number in range(few)]
    alone = scfm.prepare(cells, tiny, tmp_path / "alone")
    both = scfm.prepare([cells, second], tiny, tmp_path / "both")
    assert len(both) == len(alone) + few
    assert both.n_tokens == alone.n_tokens
    assert len(set(both.symbols[:60]) & set(alone.symbols[:60])) > 50


def test_cells_that_do_not_differ_are_refused(cells, tiny, tmp_path) -> None:
    same = cells[np.zeros(300, int)].copy()
    same.obs_names_make_unique()
    with pytest.raises(scfm.InputError, match="too few to tell which genes vary"):
        scfm.prepare(same, tiny, tmp_path / "store")
