"""From files to a checked store: reading counts, gene names, where data sets come from, the store on disk."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "read": "open_cells read_adata held_out",
        "genes": "match_genes match_report",
        "store": "Store open_store prepare",
        "sources": "find_data",
        "census": "census",
        "simulate": "simulate",
    },
)
