"""Chest X-ray models: trained, compared, explained and traced to what made them."""

import sys

from cxr import errors

sys.excepthook = errors.excepthook
