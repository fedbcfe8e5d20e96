"""What vectors are worth: numbers for one embedding, from its vectors, labels and batches alone."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "ranges": "bootstrap",
        "probes": "NEIGHBOURS FOLDS",
        "clusters": "neighbour_graph",
        "mixing": "lisi",
        "inputs": "Labelled labelled checked_vectors",
        "embedding": "Scored scores held_out_scores left_out_scores",
        "protocol": "PROTOCOL",
    },
)
