"""Cut the bundled excerpt out of a corpus.

python bench/excerpt.py --corpus PATH --out FILE
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sinkscope.errors import InputError
from sinkscope.lab.corpus import read_texts


def passage(text: str, start: float, characters: int) -> str:
    """Whole paragraphs from the share `start` of the text on, the last one completing the count."""
    paragraphs = text[int(len(text) * start) :].split("\n\n")[1:]
    taken: list[str] = []
    for paragraph in paragraphs:
        if sum(map(len, taken)) >= characters:
            break
        taken.append(paragraph)
    return "\n\n".join(taken)


def cut_excerpt(folder: str | Path, start: float = 0.4, characters: int = 28_000) -> str:
    """One contiguous passage of each validation document, set apart by a form-feed line."""
    return "\n\f\n".join(passage(t, start, characters) for t in read_texts(folder, "validation"))


def main(argv: list[str] | None = None) -> int:
    """Write the excerpt of a corpus; 2 when the corpus is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True, help="folder with the two .jsonl.xz files")
    parser.add_argument("--out", required=True, help="text file to write")
    options = parser.parse_args(argv)
    try:
        text = cut_excerpt(options.corpus)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    Path(options.out).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
