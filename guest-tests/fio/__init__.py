"""The benchmark: the same jobs on several daemons in the same guest, in rounds."""
