"""Types from a reference, and "unknown" for a type that it lacks."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

import scfm_lib as scfm
from scfm_lib.analysis import agreement, annotate_vectors
from scfm_lib.analysis.annotate import pca_of_all_genes
from scfm_lib.data.read import held_out


@pytest.fixture(scope="module")
def parts() -> tuple[ad.AnnData, ad.AnnData]:
    """A reference and a query of the cells that `trained` learned from: 600, of 3 types."""
    data = scfm.simulate(600, 120, n_types=3, n_batches=2, depth=300, seed=1)
    query = held_out(data.obs_names, 0.3, 7)
    return data[~query].copy(), data[query].copy()


def test_known_types_are_named_and_a_missing_one_is_unknown(trained, parts) -> None:
    reference, query = parts
    truth = query.obs["cell_type"].astype(str).to_numpy()
    found = scfm.annotate(trained.model, reference, query)
    assert (found.index == query.obs_names).all()
    whole = agreement(found, truth)
    assert whole["coverage"] > 0.7
    assert whole["accuracy"] > 0.9
    missing = str(np.unique(truth)[0])
    lacking = reference[reference.obs["cell_type"] != missing].copy()
    without = agreement(scfm.annotate(trained.model, lacking, query), truth)
    assert without["unknown"][missing] > 0.7
    assert without["unknown"][missing] > 3 * np.mean([without["unknown"][kind] for kind in np.unique(truth)[1:]])


def test_confidence_is_calibrated_on_cells_like_the_query() -> None:
    rng = np.random.default_rng(0)
    types = np.repeat(["a", "b", "c"], 1000)
    vectors = rng.normal(size=(3000, 8)) + 4 * (types[:, None] == np.array(["a", "b", "c", *"xxxxx"]))
    query = rng.random(3000) < 0.3
    unseen = rng.random(3000) < 0.3
    found = annotate_vectors(vectors, np.where(query, "", types), unseen, vectors[query])
    given_up = agreement(found, types[query])
    assert 1 - given_up["coverage"] == pytest.approx(0.1, abs=0.05)  # as many as UNKNOWN_SHARE says
    assert found["confidence"].between(0, 1).all()


def test_a_small_reference_gives_up_no_more_than_it_says() -> None:
    given_up = []
    for seed in range(20):  # some 8 cells of each type are left to measure confidence on
        rng = np.random.default_rng(seed)
        kinds = rng.integers(3, size=720)
        vectors = rng.normal(size=(720, 5)) + 3 * np.eye(5)[kinds]
        types = np.array(["a", "b", "c"])[kinds]
        found = annotate_vectors(vectors[:120], types[:120], rng.random(120) < 0.2, vectors[120:])
        given_up.append((found["label"] == "unknown").mean())
    assert 0.03 < np.mean(given_up) < 0.11


def test_cells_far_beyond_a_type_are_unknown_however_few_its_cells_and_however_sure_the_regression() -> None:
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        kinds = np.repeat(np.arange(4), (400, 400, 400, 100))  # of the last some 20 are left to measure distances on
        vectors = rng.normal(size=(1300, 5)) + 4 * np.eye(5)[kinds]
        far = rng.normal(size=(50, 5)) + [-8, -8, -8, 20, 0]  # on the side of the last type, where no cell is
        found = annotate_vectors(vectors, np.array(list("abcd"))[kinds], rng.random(1300) < 0.2, far)
        assert (found["likeliest"] == "d").all()
        shares.append((found["label"] == "unknown").mean())
    assert min(shares) > 0.9, shares


def test_types_of_equal_cells_and_of_very_few_to_learn_from() -> None:
    rng = np.random.default_rng(0)
    vectors = np.vstack([np.zeros((20, 3)), rng.normal(4, 1, size=(20, 3)), rng.normal(-4, 1, size=(20, 3))])
    types, unseen = np.repeat(["equal", "a", "few"], 20), np.arange(60) % 4 == 0
    unseen[42:] = True  # two cells of "few" are learned from
    with np.errstate(all="raise"):
        found = annotate_vectors(vectors, types, unseen, vectors[[0, 21]])
    assert found["likeliest"].tolist() == ["equal", "a"]
    assert found["confidence"].between(0, 1).all()


@pytest.fixture
def files(parts, trained, tmp_path) -> list[object]:
    """The command's arguments without `--out`."""
    for part, name in zip(parts, ("reference", "query"), strict=True):
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    return [trained.dir, tmp_path / "query.h5ad", "--reference", tmp_path / "reference.h5ad"]


def test_the_command_writes_labels_and_confidence_by_model_and_pca(scfm_command, files, parts, tmp_path) -> None:
    out = tmp_path / "named.h5ad"
    code, said, _ = scfm_command("annotate", *files, "--out", out)
    assert code == 0
    first, _, heading, *rows, last = said.splitlines()
    assert first.startswith(f"{out}: obs['scfm_label']")
    assert heading.split() == ["accuracy", "coverage"]
    assert [row[:16].strip() for row in rows] == ["model", "PCA of all genes"]
    assert {len(row) for row in rows} == {len(heading)}  # the columns are aligned
    written = ad.read_h5ad(out)
    for way in ("scfm", "pca"):
        assert set(written.obs[f"{way}_label"]) <= {*parts[0].obs["cell_type"], "unknown"}
        assert written.obs[f"{way}_confidence"].between(0, 1).all()
        assert (written.obs[f"{way}_label"].astype(str) == parts[1].obs["cell_type"].astype(str)).mean() > 0.7
    agree = (written.obs["scfm_label"].astype(str) == written.obs["pca_label"].astype(str)).mean()
    assert last.endswith(f"both agree on {agree:.0%} of the query")
    assert scfm_command("annotate", *files, "--out", out)[0] == 2  # it is not overwritten


def test_both_are_told_of_cells_used_neither_to_learn_nor_to_calibrate(
    scfm_command, files, parts, trained, tmp_path
) -> None:
    out = tmp_path / "named.h5ad"
    told = json.loads(scfm_command("annotate", *files, "--out", out, "--json")[1])
    reference, query = parts
    unseen = held_out(reference.obs_names, 0.2, 0)
    judged = unseen & held_out(reference.obs_names, 0.5, 1)
    assert 0.3 < judged.sum() / unseen.sum() < 0.7
    truth = reference.obs["cell_type"].astype(str).to_numpy()

    # As if the judged cells were a query, and the reference had never had them.
    rest, asked = reference[~judged].copy(), reference[judged].copy()
    model = agreement(scfm.annotate(trained.model, rest, asked), truth[judged])
    cells, seen = [scfm.open_cells(part) for part in (rest, asked)], ~unseen[~judged]
    here, there = pca_of_all_genes(*cells, seen, trained.config, print)
    pca = agreement(annotate_vectors(here, truth[~judged], ~seen, there), truth[judged])
    for way, found in (("scfm", model), ("pca", pca)):
        assert told["held_out"][way] == {key: found[key] for key in ("accuracy", "coverage")}
    assert told["held_out_cells"] == judged.sum()

    # The query's labels are calibrated on all of them.
    whole = scfm.annotate(trained.model, reference, query)
    assert told["labels"] == whole["label"].value_counts().to_dict()
    assert (ad.read_h5ad(out).obs["scfm_confidence"] == whole["confidence"]).all()


def test_the_pca_reads_a_query_with_other_genes_in_another_order(parts, trained) -> None:
    reference, query = parts
    ids = np.array([f"ENSG{number:011d}" for number in range(reference.n_vars)])
    reference = ad.AnnData(
        reference.X, obs=reference.obs, var=pd.DataFrame({"gene_ids": ids}, index=reference.var_names)
    )
    counts = query.X.toarray()
    there = np.random.default_rng(0).permutation(reference.n_vars)[:100]  # 20 genes are missing
    strange = np.tile([[3, 0, 1]], (query.n_obs, 1))
    names = pd.DataFrame(index=[f"{gene}.4" for gene in ids[there]] + [f"ENSG9999999999{n}" for n in range(3)])
    other = ad.AnnData(np.hstack([counts[:, there], strange]).astype(np.float32), obs=query.obs, var=names)
    fit, said = ~held_out(reference.obs_names, 0.2, 0), []
    cells = [scfm.open_cells(part) for part in (reference, other)]
    here, vectors = pca_of_all_genes(*cells, fit, trained.config, said.append)
    assert said[0].startswith("adata, for the PCA: 100 of 120 genes matched, 20 not (for example GENE")

    def log(counts: np.ndarray, library: np.ndarray) -> np.ndarray:
        return np.log1p(counts / library[:, None] * 1e4)

    known = reference.X.toarray()
    frequent = (known[fit] > 0).sum(0) >= 3
    lacking = np.where(np.isin(np.arange(reference.n_vars), there), counts, 0)
    pca = PCA(50, random_state=0).fit(log(known, known.sum(1))[fit][:, frequent])
    expected = pca.transform(log(lacking, other.X.sum(1))[:, frequent])[:, :5]  # the first do not hang on the solver
    sign = np.sign((vectors[:, :5] * expected).sum(0))
    np.testing.assert_allclose(vectors[:, :5] * sign, expected, atol=1e-3)
    assert here.shape == (reference.n_obs, 50)


@pytest.mark.parametrize("name", ["no known gene", "no labels", "all held out"])
def test_what_cannot_be_annotated_is_one_line(name, scfm_command, files, parts, tmp_path) -> None:
    reference, query = (part.copy() for part in parts)
    if name == "no known gene":
        query.var_names = [f"OTHER{number}" for number in range(query.n_vars)]
        query.write_h5ad(tmp_path / "query.h5ad")
        says = "query: 0 of 120 genes matched: no gene matched"
    elif name == "no labels":
        del reference.obs["cell_type"]
        reference.write_h5ad(tmp_path / "reference.h5ad")
        says = "no column 'cell_type'; choose --label-key from: batch"
    else:
        only = reference[held_out(reference.obs_names, 0.2, 0)].copy()
        only.write_h5ad(tmp_path / "reference.h5ad")
        says = "too few cells with types: 0 to learn from"
    code, out, err = scfm_command("annotate", *files, "--out", tmp_path / "named.h5ad")
    lines = [line for line in err.splitlines() if not line.endswith("genes matched")]
    assert (code, out, len(lines)) == (2, "", 1)
    assert says in lines[0]
    assert not (tmp_path / "named.h5ad").exists()


def test_no_cell_named_has_no_accuracy() -> None:
    found = pd.DataFrame({"label": ["unknown", "unknown"]})
    assert agreement(found, np.array(["a", "b"])) == {
        "coverage": 0.0,
        "accuracy": None,
        "unknown": {"a": 1.0, "b": 1.0},
    }


def test_bad_references_are_refused(trained, parts) -> None:
    reference, query = (part.copy() for part in parts)
    with pytest.raises(scfm.InputError, match="no column 'kind'; choose --label-key from: cell_type, batch"):
        scfm.annotate(trained.model, reference, query, label_key="kind")
    reference.obs["one"] = "T cell"
    with pytest.raises(scfm.InputError, match="fewer than two types"):
        scfm.annotate(trained.model, reference, query, label_key="one")
    query.var_names = [f"OTHER{number}" for number in range(query.n_vars)]
    with pytest.raises(scfm.InputError, match="no gene matched"):
        scfm.annotate(trained.model, reference, query)
