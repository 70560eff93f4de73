"""Comparisons that regenerate themselves: grid files, cells in processes of their own, tables from raw files alone."""
