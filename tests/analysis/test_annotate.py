"""Types from a reference, and "unknown" for a type that it lacks."""

import anndata as ad
import numpy as np
import pytest

import scfm_lib as scfm
from scfm_lib.analysis import agreement, annotate_vectors
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


def test_the_command_writes_labels_and_confidence(scfm_command, trained, parts, tmp_path) -> None:
    for part, name in zip(parts, ("reference", "query"), strict=True):
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    out = tmp_path / "named.h5ad"
    files = (trained.dir, tmp_path / "query.h5ad", "--reference", tmp_path / "reference.h5ad")
    code, said, _ = scfm_command("annotate", *files, "--out", out)
    assert code == 0
    assert f"{out}: obs['scfm_label']" in said
    written = ad.read_h5ad(out)
    assert set(written.obs["scfm_label"]) <= {*parts[0].obs["cell_type"], "unknown"}
    assert written.obs["scfm_confidence"].between(0, 1).all()
    assert scfm_command("annotate", *files, "--out", out)[0] == 2  # it is not overwritten


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
