"""How the numbers of a report are to be read."""

METHOD = (
    "Within a seed, all learning rules start from the same forward weights and see the same batches, so that "
    "rules are compared seed by seed.",
    "A claim's estimate is taken from all its seeds; its 95% interval is a bootstrap over seeds and, where "
    "the images that each network got right are known, over test images too. A claim is supported if the "
    "whole interval lies on its side of the threshold, not supported if the whole interval lies on the other "
    "side, and inconclusive otherwise.",
    "The accuracy of a run that diverged counts as chance. Measures of a trained network are left out for "
    "runs that diverged. Curvature is always measured by exact gradients.",
    "In the other figures diamonds and thick lines are means over the seeds, and bars are one standard "
    "deviation.",
)
