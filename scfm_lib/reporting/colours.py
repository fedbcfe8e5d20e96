"""One colour for each method in every figure of the library, the notebooks and the README; and enough for cell types.

Okabe & Ito (2008), which matplotlib has as the style "seaborn-v0_8-colorblind", told apart by most eyes.
"""

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK, GREY = "#56B4E9", "#D55E00", "#F0E442", "#000000", "#999999"
# Then Paul Tol's muted set, for more than eight cell types.
MUTED = ["#332288", "#882255", "#117733", "#999933", "#AA4499", "#44AA99", "#DDCC77", "#CC6677"]
COLOURS = [BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK, *MUTED]
MARKERS = "osD^vPX*"  # with colours alone, 16 types would still be hard to tell apart

METHOD_COLOURS = {"pca": ORANGE, "scvi": GREEN, "untrained": GREY, "start": SKY, "trained": BLUE}
METHOD_NAMES = {
    "pca": "PCA", "scvi": "scVI", "untrained": "untrained model", "start": "model at its start",
    "trained": "trained model",
}  # fmt: skip
