"""Names of genes: symbols and Ensembl ids, found in `var`, and matched between a vocabulary and a data set."""

import contextlib
import difflib
import re
import warnings
from typing import Protocol

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..errors import InputError
from ..hardware.threads import torch_threads_kept

BARCODE = re.compile(r"^[ACGT]{12,}(-\d+)?$")
LEAST_CELLS = 20  # of a data set that has a say beside larger ones
LEAST_VARYING = 20  # genes that must differ between the cells of a data set: of none, loess crashes
SPANS = (0.3, 0.5, 0.8)  # of the loess fit of variance on mean; scanpy's own first, wider ones for few cells
ENSEMBL_COLUMNS = ("ensembl_id", "gene_ids", "gene_id", "feature_id", "ensembl", "ensemblid")
SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "symbol", "feature_name", "gene_name", "gene_names")


HUMAN_MITOCHONDRIAL = {  # the 13 protein-coding genes of the human mitochondrial genome (Ensembl, MT-ND1 to MT-CYB)
    *("ENSG00000198888", "ENSG00000198763", "ENSG00000198804", "ENSG00000198712", "ENSG00000228253"),
    *("ENSG00000198899", "ENSG00000198938", "ENSG00000198840", "ENSG00000212907", "ENSG00000198886"),
    *("ENSG00000198786", "ENSG00000198695", "ENSG00000198727"),
}


class GeneNames(Protocol):
    """Anything with both kinds of names, each (genes,), "" where unknown."""

    symbols: np.ndarray
    ensembl: np.ndarray


def gene_names(var: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and Ensembl ids of the genes, each (genes,), "" where unknown.

    Ensembl ids lose their version (`ENSG00000000003.15` is `ENSG00000000003`). Symbols keep their case: it is what
    tells a mouse's gene from a human's.

    Raises:
        InputError: duplicated gene names, or barcodes of cells.
    """
    index = var.index.astype(str)
    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise InputError(
            f"{name} has duplicated gene names ({twice!r} for one); call adata.var_names_make_unique() and save it"
        )
    if np.mean([bool(BARCODE.match(gene)) for gene in index]) > 0.5:
        raise InputError(f"{name}: the genes look like cell barcodes ({index[0]!r}); turn the table: adata = adata.T")
    lower = {str(column).lower(): column for column in var.columns}

    def column(names: tuple[str, ...]) -> np.ndarray | None:
        found = next((lower[n] for n in names if n in lower), None)
        return None if found is None else var[found].astype(object).where(var[found].notna(), "").astype(str).to_numpy()

    names = index.to_numpy().astype(object)
    is_ensembl = np.mean([n.startswith("ENS") for n in names]) > 0.5
    numbered = all(n.isdigit() for n in names)
    symbols = column(SYMBOL_COLUMNS) if is_ensembl or numbered else names
    ensembl = names if is_ensembl else column(ENSEMBL_COLUMNS)
    if numbered and symbols is None and ensembl is None:
        raise InputError(f"{name}: genes are only numbered; set adata.var_names to symbols or Ensembl ids and save it")
    blank = np.full(len(names), "", dtype=object)
    symbols = blank if symbols is None else symbols
    ensembl = blank if ensembl is None else np.array([e.split(".")[0] for e in ensembl], dtype=object)
    return symbols, ensembl


def mitochondrial(cells: GeneNames) -> np.ndarray:
    """Which genes are mitochondrial: (genes,) bool; by symbol (MT-, in mice mt-) or, in humans, by Ensembl id."""
    by_symbol = [str(symbol).upper().startswith("MT-") for symbol in cells.symbols]
    return np.array(by_symbol) | np.isin(cells.ensembl.astype(str), list(HUMAN_MITOCHONDRIAL))


@torch_threads_kept()
def variable_genes(
    counts: sp.csr_matrix,
    n_top_genes: int,
    *,
    min_cells: int = 1,
    seen_in: np.ndarray | None = None,
    batches: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """The most variable genes (scanpy's `seurat_v3`): their numbers in ascending order, and of how many candidates.

    All candidates are taken where there are no more of them than `n_top_genes`.

    Raises:
        InputError: the cells are too few to tell.

    Args:
        counts: (cells, genes) of the cells that may decide.
        n_top_genes: how many.
        min_cells: genes seen in fewer cells are no candidates; a gene must be seen in one.
        seen_in: in how many cells each gene was seen (genes,), where `counts` is a sample; counted when unset.
        batches: which data set each cell is from (cells,); genes that vary within them are preferred.
    """
    import scanpy as sc

    seen = counts.getnnz(axis=0) if seen_in is None else seen_in
    candidates = np.flatnonzero(seen >= max(1, min_cells))
    if len(candidates) <= n_top_genes:
        return candidates, len(candidates)
    chosen = counts[:, candidates]
    batches = np.zeros(counts.shape[0], dtype=np.int64) if batches is None else batches
    tell = [number for number in np.unique(batches) if _varying(chosen[batches == number]) >= LEAST_VARYING]
    tell = [number for number in tell if (batches == number).sum() >= LEAST_CELLS] or tell
    here = np.isin(batches, tell)
    names = pd.RangeIndex(int(here.sum())).astype(str)
    sample = ad.AnnData(chosen[here], obs=pd.DataFrame({"batch": pd.Categorical(batches[here])}, index=names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch_key = "batch" if len(tell) > 1 else None
        for span in SPANS if tell else ():
            with contextlib.suppress(ValueError):  # of loess, where too few genes lie in a stretch of this share
                rules = {"flavor": "seurat_v3", "n_top_genes": n_top_genes, "batch_key": batch_key, "span": span}
                sc.pp.highly_variable_genes(sample, **rules)
                break
        else:
            raise InputError(
                f"{counts.shape[0]:,} cells with {len(candidates):,} genes are too few to tell which genes vary; give "
                "more cells, or let all genes be tokens (model.n_genes)"
            )
    return candidates[np.flatnonzero(sample.var["highly_variable"])], len(candidates)


def _varying(counts: sp.csr_matrix) -> int:
    """How many genes of (cells, genes) differ between cells."""
    return int((counts.max(axis=0) != counts.min(axis=0)).nnz)


def find_genes(wanted: list[str], symbols: np.ndarray, ensembl: np.ndarray) -> np.ndarray:
    """Numbers of the genes asked for, by symbol or Ensembl id, in any case: (found,) int64.

    Raises:
        InputError: a gene is not there; a name that is nearly the same is suggested.
    """
    known = {str(name).upper(): number for names in (ensembl, symbols) for number, name in enumerate(names) if name}
    for gene in wanted:
        if gene.upper() not in known:
            near = difflib.get_close_matches(gene.upper(), known, n=1, cutoff=0.8)
            perhaps = f"write {near[0]!r}, if that is meant, or leave it out" if near else "leave it out"
            raise InputError(f"data.preprocessing.must_include: gene {gene!r} is not in the data; {perhaps}")
    return np.unique([known[gene.upper()] for gene in wanted]).astype(np.int64)


def match_genes(symbols: np.ndarray, ensembl: np.ndarray, cells: GeneNames) -> np.ndarray:
    """For each gene of a vocabulary, its column in `cells`, or -1: (genes,) int64.

    Both names are compared, Ensembl ids and symbols; whichever finds more genes is used for all.
    """
    best = np.full(len(symbols), -1, dtype=np.int64)
    for wanted, there in ((ensembl, cells.ensembl), (symbols, cells.symbols)):
        position: dict[str, int] = {}
        for column, gene in enumerate(there):
            if gene:
                position.setdefault(gene, column)  # a symbol may stand for two Ensembl ids: the first is taken
        columns = np.array([position.get(gene, -1) if gene else -1 for gene in wanted], dtype=np.int64)
        if (columns >= 0).sum() > (best >= 0).sum():
            best = columns
    return best


def match_report(columns: np.ndarray, symbols: np.ndarray, name: str, there: int, least: float = 0.1) -> str:
    """One line on matched and unmatched genes.

    Args:
        columns: from `match_genes` (genes,).
        there: genes among which they were looked for; a panel of 400 genes can hold no more of 13,000.

    Raises:
        InputError: no gene was matched, or fewer than `least` of those that could be.
    """
    found = int((columns >= 0).sum())
    missing = [str(s) for s in symbols[columns < 0][:3]]
    line = f"{name}: {found:,} of {len(columns):,} genes matched"
    if found < max(1, least * min(len(columns), there)):
        reason = "no gene matched" if not found else "too few genes matched"
        raise InputError(
            f"{line}: {reason} (missing for example {', '.join(missing)}); "
            "check the species and that var holds gene symbols or Ensembl ids"
        )
    return line + (f", {len(columns) - found:,} not (for example {', '.join(missing)})" if missing else "")
