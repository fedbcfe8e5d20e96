"""One colour for each method in every figure of the library, the notebooks and the README; and enough for cell types.

Okabe & Ito (2008), which matplotlib has as the style "seaborn-v0_8-colorblind", told apart by most eyes.
"""

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK, GREY = "#56B4E9", "#D55E00", "#F0E442", "#000000", "#999999"
# Then Paul Tol's muted set, for more than eight cell types.
MUTED = ["#332288", "#882255", "#117733", "#999933", "#AA4499", "#44AA99", "#DDCC77", "#CC6677"]
COLOURS = [BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK, *MUTED]
MARKERS = "osD^vPX*"  # with colours alone, 16 types would still be hard to tell apart

METHOD_COLOURS = {  # PCA and what is counted like it in oranges, scVI in greens, the model in blues
    "pca": ORANGE, "pca_1000": "#F5CE80", "pca_3000": "#EFB640", "raw": "#8A5F00",
    "scvi": GREEN, "scvi_3000": "#66C5AB", "scvi_all": "#005F45",
    "untrained": GREY, "start": SKY, "bag": "#8878C8", "trained": BLUE, "pretrained": "#332288", "adapted": PINK,
}  # fmt: skip
METHOD_NAMES = {
    "pca": "PCA, all genes", "pca_1000": "PCA, 1,000 genes", "pca_3000": "PCA, 3,000 genes", "raw": "raw expression",
    "scvi": "scVI", "scvi_3000": "scVI, 3,000 genes", "scvi_all": "scVI, all genes", "untrained": "untrained model",
    "start": "model at its start", "bag": "trained, bag alone", "trained": "trained model",
    "pretrained": "pretrained model", "adapted": "adapted model",
}  # fmt: skip
OTHERS = [BLUE, PINK, RED, BLACK, *MUTED]  # for vectors that somebody brings


def method_style(method: str, methods: list[str]) -> dict[str, str]:
    """Colour, marker and name of a method, as matplotlib takes them; `methods` are all that are shown, in order."""
    brought = [name for name in methods if name not in METHOD_COLOURS]
    colour = METHOD_COLOURS.get(method) or OTHERS[brought.index(method) % len(OTHERS)]
    marker = MARKERS[methods.index(method) % len(MARKERS)]
    return {"color": colour, "marker": marker, "label": METHOD_NAMES.get(method, method)}
