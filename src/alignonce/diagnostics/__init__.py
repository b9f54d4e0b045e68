"""What learning does: measurements on a model and batches.

A batch is a pair (inputs, targets); a loss is a function of the model's output and the targets. Every
function works on any PyTorch model and leaves it, its gradients and the global random state as they were.
"""

from alignonce.diagnostics.agreement import Agreement, agreement
from alignonce.diagnostics.alignment import WeightAlignment, alignment, weight_alignment
from alignonce.diagnostics.curvature import (
    CurvatureTrace,
    LeadingEigenvalues,
    SpectralDensity,
    curvature_trace,
    leading_eigenvalues,
    spectral_density,
)
from alignonce.diagnostics.flow import GradientFlow, gradient_flow, log_variance, log_variance_over_steps
from alignonce.diagnostics.generalisation import (
    Generalisation,
    auroc,
    expected_calibration_error,
    generalisation,
)
from alignonce.diagnostics.gradients import GradientComparison, compare_gradients
from alignonce.diagnostics.jacobians import JacobianSpectrum, layer_singular_values
from alignonce.diagnostics.landscape import Interpolation, Surface, interpolate, surface
from alignonce.diagnostics.planes import Plane, random_plane, trajectory_plane
from alignonce.diagnostics.rank import (
    EffectiveRank,
    SubspaceAlignment,
    effective_rank,
    effective_ranks,
    principal_angles,
    subspace_alignment,
)
from alignonce.diagnostics.sharpness import Sharpness, sharpness
from alignonce.diagnostics.signals import functional_alignment
from alignonce.diagnostics.tracking import Row, Tracker, rows_of

__all__ = [
    "Agreement",
    "CurvatureTrace",
    "EffectiveRank",
    "Generalisation",
    "GradientComparison",
    "GradientFlow",
    "Interpolation",
    "JacobianSpectrum",
    "LeadingEigenvalues",
    "Plane",
    "Row",
    "Sharpness",
    "SpectralDensity",
    "SubspaceAlignment",
    "Surface",
    "Tracker",
    "WeightAlignment",
    "agreement",
    "alignment",
    "auroc",
    "compare_gradients",
    "curvature_trace",
    "effective_rank",
    "effective_ranks",
    "expected_calibration_error",
    "functional_alignment",
    "generalisation",
    "gradient_flow",
    "interpolate",
    "layer_singular_values",
    "leading_eigenvalues",
    "log_variance",
    "log_variance_over_steps",
    "principal_angles",
    "random_plane",
    "rows_of",
    "sharpness",
    "spectral_density",
    "subspace_alignment",
    "surface",
    "trajectory_plane",
    "weight_alignment",
]
