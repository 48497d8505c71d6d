"""Processes killed, disks filled and stores broken, on purpose."""
