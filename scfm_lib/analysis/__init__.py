"""Questions to a trained model: what it looks at, cell types from few labels, why its training was slow."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "interpret": "attention_matrix attention_table cell_attention gene_vectors neighbours without_each_gene",
        "annotate": "agreement annotate annotate_vectors",
        "finetune": "few_labels fine_tune predict",
        "diagnose": "doctor doctor_text summary",
    },
)
