"""The forms of data files, told by their endings; light enough for whoever only checks a name."""

from __future__ import annotations

JSON_LINES = (".jsonl", ".json")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
TASKS = (".yaml", ".yml")
ENDINGS = (*JSON_LINES, *SEPARATORS, PARQUET)
