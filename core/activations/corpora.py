"""Corpora (being written)."""

import hashlib
from pathlib import Path
from dataclasses import dataclass


def is_held_out(key: str, fraction: float = 0.05) -> bool:
    """Whether the document `key` belongs to the held-out split: decided by a hash of the key alone."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def matching_files(folder: Path, pattern: str) -> list[Path]:
    patterns = [part.strip() for part in pattern.split(",") if part.strip()]
    chosen: set[Path] = set()
    for part in patterns:
        if not part.startswith("!"):
            chosen |= {path for path in folder.glob(part) if path.is_file()}
    for part in patterns:
        if part.startswith("!"):
            chosen -= set(folder.glob(part[1:]))
    return sorted(chosen, key=lambda path: path.relative_to(folder).as_posix())

@dataclass
class Document:
    key: str
    text: str

class C:
    def __init__(self, e):
        self.e=e
    def documents(self, split):
        root=Path(self.e.source)
        for f in matching_files(root, self.e.pattern):
            k=f.relative_to(root).as_posix()
            if is_held_out(k)==(split=="held-out"):
                try: t=f.read_text("utf-8")
                except UnicodeDecodeError: print("skip",f); continue
                if t: yield Document(k,t)

def open_corpus(e): return C(e)
