"""Analysing saved runs: every measure of the diagnostics and of robustness, in one table and in figures.

It begins in `run`; nothing is imported here, so that the command line can read the settings in `plan` without
waiting for what measures and draws.
"""
