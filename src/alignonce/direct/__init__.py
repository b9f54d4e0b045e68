"""Direct feedback in a model: what is learnt from running it, what is put into it, and the hooks at work."""

from alignonce.direct.install import Plan, Tap, install, states_of, uninstall
from alignonce.direct.plan import plan_direct_feedback
from alignonce.rules.direct import DirectFeedback

__all__ = ["DirectFeedback", "Plan", "Tap", "install", "plan_direct_feedback", "states_of", "uninstall"]
