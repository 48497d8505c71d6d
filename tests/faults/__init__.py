"""Fault injection: killed processes, full disks, broken stores and concurrent writers."""
