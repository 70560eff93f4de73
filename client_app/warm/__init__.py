"""A node's warm worker: a process that stays, with model and data in memory, and who passes messages on to it."""
