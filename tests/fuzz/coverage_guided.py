"""Lets libFuzzer look for a manifest or a catalogue that ends in anything but a BundleError.

python tests/fuzz/coverage_guided.py -max_total_time=60      (atheris: pip install -e '.[fuzz]')
"""

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lsvcr"]):
    from lsvcr.bundle import MANIFEST, load_manifest
    from lsvcr.catalogue import Catalogue
    from lsvcr.errors import BundleError

from tests.tiny_bundle_builder import write_tiny_bundle

FOLDER = Path(tempfile.mkdtemp(prefix="lsvcr-fuzz-"))
SOUND, TRIED = FOLDER / "sound", FOLDER / "tried"


def try_bytes(data: bytes) -> None:
    """The first byte chooses the file, the others are its content."""
    names = [MANIFEST, *sorted(path.name for path in (SOUND / "catalogue").iterdir())]
    name = names[data[0] % len(names)] if data else MANIFEST
    path = TRIED / ("" if name == MANIFEST else "catalogue") / name
    path.write_bytes(data[1:])
    try:
        if name == MANIFEST:
            load_manifest(TRIED)
        else:
            catalogue = Catalogue.load(TRIED / "catalogue")
            for row in range(min(catalogue.video_count, 5)):
                _ = catalogue.video_id[row], catalogue.comments_under(row)
    except BundleError:
        return
    finally:
        shutil.copy(SOUND / path.relative_to(TRIED), path)


def main() -> None:
    """Begin with a sound bundle's own files."""
    write_tiny_bundle(SOUND, version="sound", videos=4, comments=6)
    shutil.copytree(SOUND, TRIED)
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    files = [SOUND / MANIFEST, *sorted((SOUND / "catalogue").iterdir())]
    for number, path in enumerate(files):
        (corpus / path.name).write_bytes(bytes([number]) + path.read_bytes())
    atheris.Setup([*sys.argv, str(corpus)], try_bytes)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
