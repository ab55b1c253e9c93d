"""Batches: single requests of many callers become one call."""
