"""The proof by experiment that a backward pass reads no forward weight."""

from alignonce.audit.audit import AuditRow, TransportReport, audit_weight_transport

__all__ = ["AuditRow", "TransportReport", "audit_weight_transport"]
