"""Does a result hold, how do two differ, can a run be repeated."""
