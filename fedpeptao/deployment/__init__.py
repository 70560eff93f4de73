"""A federation of real machines: who may speak with whom (keys and certificates), and the processes that do."""
