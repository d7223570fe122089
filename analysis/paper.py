"""Numbers published by the UniScale paper, as drawn and tabulated beside ours."""

# Figure 4, delta AUC % at model ratio 1x to 4x, digitised to +-0.01. Isolation and both widths are scaled together.
RATIOS = (1, 2, 3, 4)
SCALING = {"HHSFT + ES3": (0.12, 0.52, 0.68, 0.73), "HHSFT, search data": (0.0, 0.29, 0.39, 0.41)}
WIDTHS = {"only d_G, search": (0.0, 0.23, 0.29, 0.31), "only d_H, search": (0.0, 0.12, 0.16, 0.17)}

# Main table, delta % over DLRM-MLP: (AUC, GAUC), parameters in millions, TFLOPs as published.
MAIN = {
    ("dcn", "exposed"): (0.08, 0.01, 24, 0.65),
    ("wukong", "exposed"): (0.21, 0.13, 32, 0.94),
    ("rankmixer", "exposed"): (0.38, 0.32, 140, 1.93),
    ("hiformer", "exposed"): (0.54, 0.49, 170, 1.98),
    ("hhsft", "exposed"): (0.82, 0.62, 300, 1.22),
    ("hhsft", "searchified"): (1.14, 0.86, 300, 1.22),
}

# Module ablation, delta % against search data with HHFI only: (AUC, GAUC, HR@5). The -4.76 is out of scale with its
# neighbours and may be a slip of the paper.
ABLATION = {
    ("exposed", "both"): (0.02, 0.01, 0.02),
    ("searchified", "none"): (-0.43, -0.24, -4.76),
    ("searchified", "dref"): (0.19, 0.25, 0.39),
    ("searchified", "dapga"): (0.22, 0.18, 0.17),
    ("searchified", "both"): (0.32, 0.26, 0.44),
}

# Data volumes relative to exposed search data: (requests, samples, click positives).
VOLUMES = {
    "exposed": (1.0, 1.0, 1.0),
    "unexposed": (1.0, 3.0, 1.0),
    "attributed": (1.0, 3.0, 2.0),
    "searchified": (2.0, 5.0, 4.0),
}
