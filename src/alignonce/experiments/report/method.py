"""How the numbers of a report are to be read."""

METHOD = (
    "Words in “ ” are of the paper's abstract (Cheon, Bae and Paik 2025, arXiv 2505.20892); the rest of each "
    "claim is ours, sharpened until it can be measured.",
    "Within a seed, all learning rules start from the same forward weights and see the same batches, so that "
    "rules are compared seed by seed.",
    "A claim's estimate is the mean over its seeds, of a ratio the geometric mean. Its 95% interval is a "
    "bootstrap over seeds, widened to what Student's t asks for so few, and over test images where the "
    "measure is a share of images. A claim is supported if the whole interval lies on the claimed side of "
    "its threshold, not supported if it lies on the other side, and inconclusive otherwise. Intervals are "
    "not corrected for the number of claims: where nothing differs, one in twenty is decided by chance.",
    "The accuracy of a run that diverged counts as chance; its network is not measured further. Curvature is "
    "always measured by exact gradients.",
    "In the other figures diamonds and thick lines are means over the seeds, and bars are one standard "
    "deviation.",
)
