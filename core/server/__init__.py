"""The server: the one process that opens the log, and everything that is reached over its port."""
