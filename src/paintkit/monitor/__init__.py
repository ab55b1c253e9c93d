"""Measurement: how often, how long and how badly, without keeping what was measured."""
