"""Where text comes from: the embedded set and the user's own files, their division among clients, and their batches."""
