"""How every figure of `evaluate` and `judge` is made, in words that go into every result."""

TEXT = """
No method sees a label. Each is fitted once: in evaluate on those of the cells that the model learned from, known by
their counts or names, or on four fifths where it learned from none; in judge on all cells (what vectors in obsm were
fitted on, only their maker knows). PCA: 50 components of log1p counts per 10,000, unscaled, of all genes or the 1,000
or 3,000 most variable. scVI: 100 epochs, told the batch if there is one, of as many variable genes as the model has
tokens (in judge 1,000), of 3,000 or of all. Raw expression: log1p counts of all genes, for the logistic regression
alone, with 20,000 cells drawn if there are more.

All labelled cells are judged in 5 stratified folds. The 15 nearest neighbours vote (kNN, nearest by Euclid, or by
cosine where the name says so), or a logistic regression guesses (standardised, but for raw expression). F1 is macro-F1:
every label counts the same. Accuracy is the share of cells named rightly.

NMI and ARI: the best of Leiden at resolutions 0.1 to 2.0 on a graph of 15 neighbours, chosen by the labels. k-means
NMI and ARI: k-means with as many clusters as labels, where nothing is chosen. Silhouette: scaled to 0..1, shown but
never decisive, since it rewards round, far islands whatever lies in them. iLISI: (median LISI - 1) / (batches - 1),
90 neighbours, perplexity 30; mixing alone is no merit.

Held out: probes learn from the labels of the cells that the methods were fitted on, and are judged on cells that
neither they nor the model learned from.

Left-out accuracy: for each group every baseline is fitted anew, and the model trained anew, on the other groups'
cells of these data; 15 neighbours (Euclid) learn the other groups' labels and guess the group's; the mean over
groups. A label that only one group has counts as wrong there. Vectors in obsm are used as they are and may have seen
the group.

Ranges: the 5 and 95 % of 200 bootstrap draws of cells, moved until their median is the score, since repeated cells
lift some scores. Nothing is fitted anew for them, so the luck of a seed comes on top.
"""
PROTOCOL = "\n\n".join(" ".join(paragraph.split()) for paragraph in TEXT.split("\n\n"))
