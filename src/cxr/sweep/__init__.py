"""Sweeps: train configurations over seeds, here or on a cluster, and rank them in one table.

Each is a DVC experiment. A finished one is recognised by its name and not run again; an interrupted
one resumes.
"""
